"""Exported graphs compute what the torch module computes, at every layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.networks import random_module, save_weights, values
from torch import nn

from convlens_models import tensors
from convlens_models.architectures import ARCHITECTURES
from convlens_models.graphs import surgery
from convlens_models.importing import export, importer, verify
from convlens_models.manifest import INPUT, Manifest
from convlens_models.network import load_network
from convlens_models.repository import FORWARD, WEIGHTS, ModelRepository

QUICK = ("patterns", "squeezenet1_0", "squeezenet1_1", "resnet18", "googlenet", "efficientnet_lite0")
SLOW = ("efficientnet_lite1", "efficientnet_lite2", "inception_v3", "resnet50", "alexnet", "vgg16", "vgg19")
BLOCKS = {
    "squeezenet1_0": {"features.3": "Fire"},
    "resnet18": {"layer1.0": "BasicBlock", "layer4.1": "BasicBlock"},
    "resnet50": {"layer3.5": "Bottleneck"},
    "googlenet": {"inception4c": "Inception", "inception4c.branch2.1": "ConvNormRelu"},
    "inception_v3": {"Mixed_7c": "InceptionE"},
}


def add(root: Path, architecture: str) -> Manifest:
    weights = save_weights(random_module(architecture), root / "weights.safetensors")
    return importer.add_architecture(root / "models", architecture, weights)


@pytest.mark.parametrize(
    "architecture", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_every_layer_equals_torch_at_two_sizes(architecture: str, tmp_path: Path):
    manifest = add(tmp_path, architecture)
    stored = ModelRepository(tmp_path / "models").get(architecture)
    network, names = load_network(stored), [layer.name for layer in manifest.layers]
    side = manifest.input_size
    sizes = [(1, side, side)]
    if manifest.dynamic_size:
        sizes += [(2, manifest.min_size, manifest.min_size + 13)]
    for batch, height, width in sizes:
        images = torch.rand(batch, 3, height, width)
        expected = values(network, images, names)
        part = surgery.cut(stored.forward(), names)
        actual = dict(zip(names, verify.run(part, stored.path, names, {INPUT: images.numpy()}), strict=True))
        worst = {name: relative(actual[name], expected[name].numpy()) for name in names}
        assert max(worst.values()) < 1e-5, max(worst.items(), key=lambda item: item[1])
        if (height, width) == (side, side):
            assert {layer.name: layer.shape for layer in manifest.layers} == {
                name: value.shape[1:] for name, value in actual.items()
            }
    kinds = {layer.name: layer.kind for layer in manifest.layers}
    assert kinds.items() >= BLOCKS.get(architecture, {}).items()


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_modules_that_run_are_layers(architecture: str):
    inert = (nn.Sequential, nn.Dropout)
    with torch.device("meta"):
        module = ARCHITECTURES[architecture].build(7)
    names = list(export.to_onnx(module, {}, WEIGHTS, mean=(0, 0, 0), std=(1, 1, 1), size=None).layers)
    expected = {name for name, part in module.named_modules() if name and not isinstance(part, inert)}
    heads = {"logits"} if architecture.startswith("squeezenet") else set()
    assert set(names) == expected | heads | {"probabilities", "log_probabilities"}
    assert len(names) == len(set(names))


def test_the_graph_is_plain_and_points_into_the_one_weights_file(tmp_path: Path):
    manifest = add(tmp_path, "squeezenet1_0")
    stored = ModelRepository(tmp_path / "models").get("squeezenet1_0")
    model = stored.forward()
    onnx.checker.check_model(str(stored.file(FORWARD)))
    used = {node.op_type for node in model.graph.node}
    heads = {"Softmax", "LogSoftmax"}
    assert used == {"Sub", "Div", "Conv", "Relu", "MaxPool", "Concat", "GlobalAveragePool", "Flatten", *heads}
    assert all(len(node.output) == 1 for node in model.graph.node)
    inline = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert inline == 24  # Mean and deviation.
    assert stored.file(FORWARD).stat().st_size < 40_000
    assert sum(value.size for value in stored.weights().values()) == manifest.parameters
    assert [info.name for info in model.graph.output] == ["logits", "probabilities", "log_probabilities"]


def test_normalisation_is_inside(tmp_path: Path):
    weights = save_weights(random_module("patterns"), tmp_path / "w.safetensors")
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    importer.add_architecture(tmp_path, "patterns", weights, mean=mean, std=std)
    stored = ModelRepository(tmp_path).get("patterns")
    images = torch.rand(1, 3, 40, 40)
    expected = random_module("patterns")(
        (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    )
    (actual,) = verify.run(stored.forward(), stored.path, [stored.manifest.output], {INPUT: images.numpy()})
    assert relative(actual, expected.numpy()) < 1e-5


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.Hardswish()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.odd(x)


class Function(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


@pytest.mark.parametrize(("module", "named"), [(Odd(), "odd: .*Hardswish"), (Function(), "sin")])
def test_a_part_without_an_operator_is_named(module: nn.Module, named: str):
    with pytest.raises(TypeError, match=named):
        export.to_onnx(module, {}, WEIGHTS, mean=(0, 0, 0), std=(1, 1, 1), size=None)


def test_byte_offsets_are_those_of_the_tensors(tmp_path: Path):
    module = random_module("patterns")
    path = save_weights(module, tmp_path / WEIGHTS)
    content = path.read_bytes()
    for name, entry in tensors.index(path).items():
        piece = content[entry.offset : entry.offset + entry.length]
        assert piece == module.state_dict()[name].numpy().tobytes()
