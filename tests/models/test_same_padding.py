"""Convolutions with TensorFlow's SAME padding: pads follow from the size, in values, gradients and fields."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from support.pair import distance, session
from torch import nn

from convlens_models.architectures.same import SameConv2d
from convlens_models.graphs import layers
from convlens_models.graphs.autodiff import differentiate
from convlens_models.importing import torchscript
from convlens_models.manifest import INPUT, PROBABILITIES
from convlens_models.measures.receptive_field import receptive_field
from convlens_models.network import Network

SIDES = range(17, 26)


def chain(mode: str, kernels: tuple[int, ...], strides: tuple[int, ...]):
    """Convolutions in a row with positive kernels, so that no path cancels another."""
    weights, nodes, value = [], [], INPUT
    for number, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
        array = np.random.default_rng(number).random((3, 3, kernel, kernel), np.float32) / kernel**2
        weights.append(numpy_helper.from_array(array, f"w{number}"))
        nodes.append(
            helper.make_node(
                "Conv", [value, f"w{number}"], [f"conv{number}"], auto_pad=mode, strides=[stride, stride]
            )
        )
        value = f"conv{number}"
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in ((INPUT, ("N", 3, "H", "W")), (value, None))
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), value, weights


def same(image: torch.Tensor, weight: torch.Tensor, stride: int, upper: bool) -> torch.Tensor:
    """By TensorFlow's words: ceil(n / stride) positions, as few zeros as these need, the odd one behind."""
    pads: list[int] = []
    for side in (image.shape[3], image.shape[2]):
        both = max((-(-side // stride) - 1) * stride + weight.shape[2] - side, 0)
        pads += sorted([both // 2, both - both // 2], reverse=not upper)
    return F.conv2d(F.pad(image, pads), weight, stride=stride)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("kernels", "strides"), [((3, 5), (2, 2)), ((4, 1), (3, 2)), ((5, 3), (1, 2))])
def test_gradients_of_open_sizes_equal_float64(mode: str, kernels, strides, tmp_path: Path):
    model, value, weights = chain(mode, kernels, strides)
    run = session(differentiate(model, value), tmp_path)
    for height, width in ((17, 20), (18, 19), (24, 25)):
        image = torch.rand(2, 3, height, width, dtype=torch.double, requires_grad=True)
        expected = image
        for weight, stride in zip(weights, strides, strict=True):
            kernel = torch.tensor(numpy_helper.to_array(weight)).double()
            expected = same(expected, kernel, stride, mode == "SAME_UPPER")
        cotangent = torch.randn_like(expected)
        (gradient,) = torch.autograd.grad(expected, image, cotangent)
        feeds = {"image": image.detach().float().numpy(), "cotangent": cotangent.float().numpy()}
        actual = run.run([value, "image_gradient"], feeds)
        assert distance(actual[0], expected.detach()) < 1e-5
        assert distance(actual[1], gradient) < 1e-5


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("kernel", [3, 5])
def test_the_module_pads_as_tensorflow_does(kernel: int, stride: int):
    layer = SameConv2d(3, 4, kernel, stride).double()
    for height, width in itertools.pairwise(SIDES):
        image = torch.rand(1, 3, height, width, dtype=torch.double)
        torch.testing.assert_close(layer(image), same(image, layer.weight, stride, upper=True))


def test_boxes_are_where_the_gradient_is_at_every_size():
    """The odd zero lies behind: where position 0 looks follows from the side's remainder, along each axis."""
    model, value, weights = chain("SAME_UPPER", (3, 5), (2, 2))
    (layer,) = layers.describe(model, {value: None}, 24)
    assert len(layer.receptive_field_starts) == layer.stride == 4
    for height, width in itertools.product(SIDES, (20, 23)):
        image = torch.ones(1, 3, height, width, requires_grad=True)
        out = image
        for weight in weights:
            out = same(out, torch.tensor(numpy_helper.to_array(weight)), 2, upper=True)
        out[0, 0, 2, 3].backward()
        rows, columns = (image.grad[0, 0].sum(axis).nonzero().flatten() for axis in (1, 0))
        box = receptive_field(layer, 2, 3, (height, width)).clipped((height, width))
        assert box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_where_pads_do_not_follow_from_the_size_one_place_holds_for_all():
    model, value, _ = chain("SAME_UPPER", (3, 5), (1, 1))
    assert layers.describe(model, {value: None}, 24)[0].receptive_field_starts == ()


def test_a_trace_pads_by_the_size_that_it_gets(tmp_path: Path):
    module = nn.Sequential(SameConv2d(3, 4, 5, 2), nn.ReLU6(), SameConv2d(4, 4, 3, 2, groups=4))
    network = Network(module, (0.0,) * 3, (1.0,) * 3)
    torchscript.save(network, ["1", "2", PROBABILITIES], 32, tmp_path / "model.ts")
    script = torchscript.load(tmp_path / "model.ts")
    for sides in ((32, 32), (33, 30), (27, 41)):
        images = torch.rand(2, 3, *sides)
        expected = network.taps(images, ["2"])["2"].numpy()
        np.testing.assert_allclose(script.forward(images.numpy(), ["2"])["2"], expected, atol=1e-6)


def test_a_unit_beyond_its_bounds_gets_a_gradient_only_when_redirected():
    """Of a sum that is to become small, what is closed above gets one, as what is closed below does."""
    convolution = nn.Conv2d(3, 1, 1)
    nn.init.constant_(convolution.weight, 1.0)
    nn.init.constant_(convolution.bias, 9.0)
    network = Network(nn.Sequential(convolution, nn.ReLU6()), (0.0,) * 3, (1.0,) * 3)
    image = torch.rand(1, 3, 4, 4, requires_grad=True)

    def gradient(sign: float) -> torch.Tensor:
        return torch.autograd.grad(sign * network.taps(image, ["1"])["1"].sum(), image)[0]

    assert not gradient(1.0).any()
    with network.redirected():
        assert (gradient(1.0) > 0).all()
        assert not gradient(-1.0).any()
