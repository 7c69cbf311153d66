"""Cutting graphs, fixing their sizes, and reading fields, multiply-adds and smallest sizes off them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from support.networks import random_module, save_weights
from torch import nn

from convlens.errors import InvalidArgument
from convlens_models.architectures import ARCHITECTURES
from convlens_models.graphs import layers, surgery
from convlens_models.importing import export, verify
from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import INPUT, Layer
from convlens_models.network import Network, load_network
from convlens_models.repository import ModelRepository
from convlens_models.tensors import Entry

STORED = ModelRepository().get()
RELU = "features.relu2"


def test_a_cut_graph_holds_the_ancestors_alone():
    part = surgery.cut(STORED.forward(), [RELU]).graph
    assert [node.output[0] for node in part.node][-1] == RELU
    assert {tensor.name for tensor in part.initializer if tensor.external_data} == {
        f"features.{name}.{kind}" for name in ("conv1", "conv2") for kind in ("weight", "bias")
    }
    assert [info.name for info in part.output] == [RELU]
    assert [info.name for info in part.input] == [INPUT]


def test_outputs_come_in_the_order_asked_for_and_cutting_leaves_the_whole_alone():
    model = STORED.forward()
    before = model.SerializeToString(deterministic=True)
    names = ["probabilities", RELU, "classifier"]
    part = surgery.cut(model, names)
    assert [info.name for info in part.graph.output] == names
    surgery.static(model, (1, 40, 40))
    assert model.SerializeToString(deterministic=True) == before
    actual = verify.run(part, STORED.path, names, {INPUT: verify.noise(2, 40)})
    assert [value.shape for value in actual] == [
        (2, len(STORED.manifest.labels)),
        (2, 48, 20, 20),
        actual[0].shape,
    ]


def test_unknown_values_are_refused():
    with pytest.raises(InvalidArgument, match=r"outputs = 'features\.nothing'"):
        surgery.cut(STORED.forward(), [RELU, "features.nothing"])


@pytest.mark.parametrize("shape", [(1, 40, 55), (None, 33, 20), (3, 96, 96)])
def test_static_sizes_are_worked_out_everywhere(shape: tuple[int | None, int, int]):
    fixed = surgery.static(surgery.cut(STORED.forward(), [RELU]), shape)
    batch, height, width = shape
    expected = (batch or 0, 48, (height + 1) // 2, (width + 1) // 2)
    assert surgery.shapes(fixed)[RELU] == expected
    assert surgery.shapes(fixed)["features.conv1"] == (batch or 0, 40, *expected[2:])
    images = np.random.default_rng(0).random((batch or 2, 3, height, width), np.float32)
    (actual,) = verify.run(fixed, STORED.path, [RELU], {INPUT: images})
    (free,) = verify.run(surgery.cut(STORED.forward(), [RELU]), STORED.path, [RELU], {INPUT: images})
    np.testing.assert_allclose(actual, free, rtol=1e-5, atol=1e-6)


def averaging(module: nn.Module) -> nn.Module:
    """The network as a sum of positive paths: positive kernels, no bias, averages for maxima."""
    for part in list(module.modules()):
        if isinstance(part, nn.Conv2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            part.weight /= part.weight[0].numel()
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        for name, child in list(part.named_children()):
            if isinstance(child, nn.MaxPool2d):
                sizes = (child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(part, name, nn.AvgPool2d(*sizes))
    return module


FIELDS = {
    "squeezenet1_0": ("features.0", "features.2", "features.3", "features.6", "features.8", "features.12"),
    "resnet18": ("maxpool", "layer1.1", "layer2.0", "layer2.0.downsample.0", "layer3.0.relu1"),
    "googlenet": ("conv3", "maxpool2", "inception3a", "inception3a.branch3.0", "inception4a"),
    "patterns": ("features.conv1", "features.pool2", "features.conv3_2", "features.relu4_1"),
}


@pytest.mark.parametrize("architecture", FIELDS)
def test_receptive_fields_are_where_the_gradient_is(architecture: str, tmp_path):
    weights = save_weights(averaging(random_module(architecture)), tmp_path / "w.safetensors")
    manifest = add_architecture(tmp_path, architecture, weights)
    network = load_network(ModelRepository(tmp_path).get(architecture))
    averaging(network.module)
    size = ARCHITECTURES[architecture].input_size * 5 // 4
    images = torch.full((1, 3, size, size), 0.9).add_(network.std).requires_grad_()
    for name in FIELDS[architecture]:
        layer = manifest.layer(name)
        value = network.taps(images, [name])[name]
        row, column = (side // 2 for side in value.shape[2:])
        (gradient,) = torch.autograd.grad(value[0, :, row, column].sum(), images)
        seen = gradient[0].abs().sum(0).nonzero()
        first, last = field(layer, row), field(layer, column)
        assert (seen[:, 0].min(), seen[:, 0].max()) == first, name
        assert (seen[:, 1].min(), seen[:, 1].max()) == last, name


def field(layer: Layer, position: int) -> tuple[float, float]:
    centre = layer.receptive_field_start + position * layer.stride
    return centre - (layer.receptive_field - 1) / 2, centre + (layer.receptive_field - 1) / 2


def test_layers_without_positions_see_the_whole_input():
    for name in ("avgpool", "classifier", "probabilities"):
        layer = STORED.manifest.layer(name)
        assert (layer.stride, layer.receptive_field, layer.receptive_field_start) == (0, 96, 47.5)


def test_multiply_adds_are_those_of_the_papers():
    assert ModelRepository().get().manifest.multiply_adds == layers.multiply_adds(STORED.forward(), 96)
    kernels = {"conv1": 48 * 48, "conv2": 48 * 48, "conv3_1": 24 * 24, "conv3_2": 24 * 24}
    kernels |= {"conv4_1": 144, "conv4_2": 144, "conv5_1": 36, "conv5_2": 36}
    weights = STORED.weights()
    expected = sum(weights[f"features.{name}.weight"].size * count for name, count in kernels.items())
    assert STORED.manifest.multiply_adds == expected + weights["classifier.weight"].size


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pad", [0, 1])
def test_smallest_sizes_are_torchs(ceil: int, kernel: int, stride: int, pad: int):
    pool = nn.Sequential(*[nn.MaxPool2d(kernel, stride, pad, ceil_mode=bool(ceil)) for _ in range(2)])
    options = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": ceil}
    nodes = [helper.make_node("MaxPool", [a], [b], **options) for a, b in ((INPUT, "one"), ("one", "two"))]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in ((INPUT, ("N", 3, "H", "W")), ("two", None))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "pools", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 18)]
    )
    fits = [side for side in range(1, 60) if _fits(pool, side)]
    assert layers.min_size(model, 60) == fits[0]


@pytest.mark.parametrize("architecture", ["alexnet", "squeezenet1_0", "resnet18"])
def test_shapes_at_a_size_are_torchs_or_there_are_none(architecture: str) -> None:
    """Ceil mode, pads and strides at sizes that they do not divide, and a head of one size behind them."""
    with torch.device("meta"):
        module = ARCHITECTURES[architecture].build(3).eval()
        stored = {key: Entry("F32", tuple(value.shape), 0, 0) for key, value in module.state_dict().items()}
        graph = export.to_onnx(module, stored, "", mean=(0, 0, 0), std=(1, 1, 1), size=224)
        network = Network(module, (0, 0, 0), (1, 1, 1)).to("meta")
    maps = [name for name, part in module.named_modules() if isinstance(part, nn.Conv2d | nn.MaxPool2d)]
    for height, width in ((224, 61), (35, 130), (7, 9)):
        for name in maps[::5]:
            expected = _shape(network, name, height, width)
            assert layers.shape_at(graph.model, name, height, width) == expected, (name, height, width)


def _shape(network: Network, name: str, height: int, width: int) -> tuple[int, ...] | None:
    try:
        return tuple(network.taps(torch.empty(1, 3, height, width, device="meta"), [name])[name].shape)[1:]
    except RuntimeError:
        return None


def _fits(pool: nn.Module, side: int) -> bool:
    try:
        return pool(torch.zeros(1, 3, side, side)).numel() > 0
    except RuntimeError:
        return False
