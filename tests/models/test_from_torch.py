"""Networks straight from PyTorch: `convlens_models.add` and `convlens models add --torch`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import convlens_models
from convlens.errors import InvalidArgument
from convlens_models.graphs import surgery
from convlens_models.importing import factories, verify
from convlens_models.importing.from_torch import add_torch
from convlens_models.manifest import INPUT, Manifest
from convlens_models.repository import ModelRepository

SIDE = 24
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "input_size": SIDE}
GIVEN = {
    "tensor": lambda scores: scores,
    "tuple": lambda scores: (scores, None),
    "dict": lambda scores: {"scores": scores, "map": scores[..., None]},
    "logits": lambda scores: SimpleNamespace(logits=scores, loss=None),
}


class Net(nn.Module):
    """Scores (N, 4) as `given` wraps them; with `cells`, of images of one size alone."""

    def __init__(self, given: str = "tensor", cells: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(cells)
        self.fc = nn.Linear(6 * cells**2, 4)
        self.given = given

    def forward(self, images: Tensor) -> object:
        """Scores (N, 4) of images (N, 3, H, W), as `given` wraps them."""
        x = self.stem(images)
        return GIVEN[self.given](self.fc(self.pool(x + self.block(x)).flatten(1)))


class Branching(Net):
    """Does something else with images that are larger than those that it is traced with."""

    def forward(self, images: Tensor) -> object:
        """Scores (N, 4) of images (N, 3, H, W), as `given` wraps them."""
        return super().forward(images if images.shape[-1] <= SIDE else images * 2)


def served(root: Path, manifest: Manifest, images: np.ndarray) -> np.ndarray:
    """The scores of a stored network."""
    stored = ModelRepository(root).get(manifest.name)
    part = surgery.cut(stored.forward(), [manifest.output])
    return verify.run(part, stored.path, [manifest.output], {INPUT: images})[0]


@pytest.mark.parametrize("given", GIVEN)
def test_a_module_is_served_as_it_computes(given: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Net(given).train()
    manifest = convlens_models.add(module, "net", models=tmp_path, **PLAIN)
    assert module.training, "the caller's module stays as it is"
    assert (manifest.dynamic_size, len(manifest.labels)) == (True, 4)
    images = verify.noise(2, SIDE + 9)
    with torch.no_grad():
        expected = Net.forward(module.eval(), torch.from_numpy(images))
    expected = {
        "tuple": lambda: expected[0],
        "dict": lambda: expected["scores"],
        "logits": lambda: expected.logits,
    }.get(given, lambda: expected)()
    np.testing.assert_allclose(served(tmp_path, manifest, images), expected.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("module", [Net(cells=4), Branching()], ids=["a pool of 4 x 4", "a branch by size"])
def test_a_graph_that_is_right_at_one_size_takes_that_size(module: nn.Module, tmp_path: Path) -> None:
    manifest = convlens_models.add(module, "net", models=tmp_path, **PLAIN)
    assert (manifest.dynamic_size, manifest.input_size) == (False, SIDE)


class Failing(Net):
    """Fails on every picture."""

    def forward(self, images: Tensor) -> object:
        """Raises ValueError."""
        raise ValueError("no pictures please\nand more")


class Maps(Net):
    """Gives maps instead of scores."""

    def forward(self, images: Tensor) -> object:
        """Maps of images."""
        return self.stem(images)


REFUSED = {
    "a module that fails": (
        Failing(),
        r"the module fails on images \[1, 3, 24, 24\]: ValueError: no pictures please$",
    ),
    "maps": (Maps(), r"a module that gives \[\[1, 6, 12, 12\]\]': must be one that gives scores"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_module_that_is_no_classifier_is_refused(case: str, tmp_path: Path) -> None:
    module, message = REFUSED[case]
    with pytest.raises(InvalidArgument, match=message):
        convlens_models.add(module, "net", models=tmp_path, **PLAIN)
    with pytest.raises(InvalidArgument, match="name = 'No'"):
        convlens_models.add(Net(), "No", models=tmp_path, **PLAIN)


BUILDER = """
import torch
from torch import nn

def build(classes=4):
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, classes)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), *head)

def create_model(name, pretrained, num_classes=4):
    module = build(num_classes)
    module.pretrained_cfg = {"mean": (0.5, 0.25, 0.125), "std": (0.5, 0.5, 0.25), "input_size": (3, 20, 20)}
    return module

def nothing():
    return 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a module `nets` of the user's and one that stands for timm."""
    for name in ("nets", "timm"):
        (tmp_path / f"{name}.py").write_text(BUILDER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("nets", "timm"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_the_command_runs_a_factory_in_a_process_of_its_own(folder: Path) -> None:
    def add(factory: str) -> subprocess.CompletedProcess[str]:
        start = "from convlens_client.cli import main; main()"
        command = [sys.executable, "-c", start, "models", "add", "--torch", factory, "--input-size", "20"]
        return subprocess.run(
            [*command, "--models", "m"], cwd=folder, capture_output=True, text=True, timeout=100, check=False
        )

    done = add("nets:build(classes=3)")
    assert done.returncode == 0, done.stderr
    assert "added build/1: onnx for onnx, 3 classes" in done.stdout
    wrong = add("nets:absent")
    assert wrong.returncode == 2
    told = "torch: nets:absent fails: AttributeError: module 'nets' has no attribute 'absent'"
    assert wrong.stderr == f"Error: {told}\n"


def test_a_network_of_timm_has_its_weights_its_classes_and_its_preprocessing(folder: Path) -> None:
    weights = {f"module.{key}": value for key, value in __import__("nets").build(7).state_dict().items()}
    torch.save({"model": weights, "epoch": 2}, folder / "w.pth")
    manifest = add_torch(folder / "m", "timm:net_a", weights=folder / "w.pth")
    assert (manifest.name, len(manifest.labels), manifest.input_size) == ("net_a", 7, 20)
    assert (manifest.mean, manifest.std) == ((0.5, 0.25, 0.125), (0.5, 0.5, 0.25))
    images = verify.noise(1, 20)
    module = factories.build(factories.parse("nets:build(classes=7)"), None)
    module.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (manifest.mean, manifest.std))
    with torch.no_grad():
        expected = module.eval()((torch.from_numpy(images) - mean) / std)
    np.testing.assert_allclose(served(folder / "m", manifest, images), expected.numpy(), rtol=1e-4, atol=1e-6)


MISTAKES = {
    "nets": "torch = 'nets': must be module:function, timm:NAME",
    "nets:build(3)": "must be module:function",
    "nets:build(classes=__import__('os'))": "must be module:function",
    "nets:nothing": "nets:nothing, which makes a int.*: must be one that makes a torch.nn.Module",
    "absent:build": "absent:build fails: ModuleNotFoundError: No module named 'absent'",
    "timm:net_a": "timm:net_a has random weights; give --weights FILE",
}


@pytest.mark.parametrize("factory", MISTAKES)
def test_a_factory_that_builds_no_network_is_refused(factory: str, folder: Path) -> None:
    with pytest.raises(InvalidArgument, match=MISTAKES[factory]):
        add_torch(folder / "m", factory)
