"""A small network whose linear head takes one size, as VGG's does, in all forms that a repository has."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

from convlens_models.architectures.base import Architecture
from convlens_models.importing import export, publish, torchscript
from convlens_models.importing.importer import write_network
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.network import Network
from convlens_models.repository import TORCHSCRIPT

SIDE = 48
CLASSES = 5
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


class Small(nn.Module):
    """Three convolutions, an overlapping pool with ceil_mode among them, and a linear head."""

    def __init__(self, classes: int = CLASSES, head: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, 2),
            nn.Conv2d(6, 8, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(8, 8, 3),
            nn.ReLU(),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(head)
        self.classifier = nn.Linear(8 * head**2, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return out


MAPS = tuple(f"features.{position}" for position in range(8))
"""The layers before the head."""


def module(head: int = 4) -> nn.Module:
    """The same trunk whatever the head: of one size for 4 positions a side, of any for 1."""
    torch.manual_seed(3)
    trunk = Small()
    built = Small(head=head)
    built.features.load_state_dict(trunk.features.state_dict())
    return built.eval().requires_grad_(False)


def add_all(root: Path) -> Path:
    """Add "ours", "scripted" and "foreign", of one size, and "headless", the trunk before a pool of all."""
    add_ours(root, "ours", module())
    add_ours(root, "headless", module(1))
    add_ours(root, "scripted", module(), scripted=True)
    with TemporaryDirectory() as name:
        add_onnx(root, save_foreign(Path(name)), "foreign", mean=MEAN, std=STD)
    return root


def add_ours(root: Path, name: str, net: nn.Module, scripted: bool = False) -> None:
    """Add a network as a built-in one of an architecture that has one size."""
    plan = Architecture(Small, "classifier", SIDE)
    with publish.staging(root) as folder:
        manifest = write_network(folder, net, plan, MEAN, STD)
        labels = tuple(f"class {index}" for index in range(CLASSES))
        update = {"name": name, "architecture": "vgg16", "labels": labels}
        if scripted:
            names = [layer.name for layer in manifest.layers]
            torchscript.save(Network(net, MEAN, STD), names, SIDE, folder / TORCHSCRIPT)
            update["engine"] = "torchscript"
        publish.publish(folder, root, manifest.model_copy(update=update))


def save_foreign(folder: Path) -> Path:
    """The network as somebody else's file, with its size declared throughout."""
    exported = export.write(module(), folder, mean=(0, 0, 0), std=(1, 1, 1), size=SIDE, heads=False)
    assert exported.model.graph.value_info
    onnx.load_external_data_for_model(exported.model, str(folder))
    path = folder / "foreign.onnx"
    onnx.save(exported.model, path)
    return path
