"""The box of a unit is where its gradient is: in random networks, in the built-in ones, and at borders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from support.networks import random_module, save_weights
from support.pair import Pair

from convlens_models.graphs import layers
from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import INPUT, Layer
from convlens_models.measures.receptive_field import Box, receptive_field
from convlens_models.network import Network

SIZE = 57


@pytest.mark.parametrize(
    ("box", "moved"),
    [
        (Box(2, 3, 7, 8), Box(2, 3, 7, 8)),
        (Box(-2, 8, 3, 13), Box(0, 5, 5, 10)),
        (Box(18, -9, 23, -4), Box(15, 0, 20, 5)),
        (Box(-3, 2, 22, 27), Box(0, 0, 20, 10)),
    ],
)
def test_boxes_moved_into_an_image_keep_their_size_where_it_is_large_enough(box: Box, moved: Box) -> None:
    assert box.moved_into((10, 20)) == moved


def positive_stack(rng: np.random.Generator, alike: bool) -> tuple[Pair, str]:
    """Three to five convolutions and average pools with positive kernels, so that no path cancels another.

    Args:
        alike: pad rows and columns alike; the begin and the end still differ.
    """
    pair, value = Pair(rng.random((1, 3, SIZE, SIZE))), INPUT
    for _ in range(rng.integers(3, 6)):
        kernel = int(rng.integers(2, 5))
        stride = int(rng.integers(1, min(kernel, 3) + 1))
        if rng.random() < 0.5:
            begin, end = rng.integers(0, kernel, 2)
            pads = [begin, begin, end, end] if alike else rng.integers(0, kernel, 4)
            value = convolution(pair, value, kernel, stride, pads)
        else:
            value = pool(pair, value, kernel, stride, int(rng.integers(0, kernel // 2 + 1)))
    return pair, value


def convolution(pair: Pair, source: str, kernel: int, stride: int, pads: Sequence[int]) -> str:
    """Padded differently at each side, (top, left, bottom, right)."""
    weight = pair.const(np.full((3, 3, kernel, kernel), 1 / kernel**2, np.float32))
    top, left, bottom, right = (int(pad) for pad in pads)

    def reference(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(x, (left, right, top, bottom)), w, stride=stride)

    attributes = {"strides": [stride] * 2, "pads": [top, left, bottom, right]}
    return str(pair.op("Conv", source, weight, ref=reference, **attributes))


def pool(pair: Pair, source: str, kernel: int, stride: int, pad: int) -> str:
    def reference(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, kernel, stride, pad, ceil_mode=True)

    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": 1}
    return str(pair.op("AveragePool", source, ref=reference, **attributes))


def support_of(value: torch.Tensor, images: torch.Tensor, y: int, x: int) -> Box:
    """The smallest box around the pixels that the units at (y, x) have a gradient to."""
    (gradient,) = torch.autograd.grad(value[0, :, y, x].sum(), images, retain_graph=True)
    rows, columns = gradient[0].abs().sum(0).nonzero().T
    return Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


def within(inner: Box, outer: Box) -> bool:
    begins = inner.left >= outer.left and inner.top >= outer.top
    return begins and inner.right <= outer.right and inner.bottom <= outer.bottom


def positions(side: int) -> list[int]:
    """Both borders, their neighbours, and the middle."""
    return sorted({0, min(1, side - 1), side // 2, max(0, side - 2), side - 1})


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_the_gradient_of_a_unit_fills_its_box(seed: int, alike: bool) -> None:
    """Exactly where both axes have the same field; else the square is around both."""
    pair, name = positive_stack(np.random.default_rng(seed), alike)
    (layer,) = layers.describe(pair.model(), {name: None}, SIZE)
    value, images = pair.values[name], pair.values[INPUT]
    for y in positions(value.shape[2]):
        for x in positions(value.shape[3]):
            box = receptive_field(layer, y, x, (SIZE, SIZE))
            seen = support_of(value, images, y, x)
            assert seen == box.clipped((SIZE, SIZE)) if alike else within(seen, box), (layer, y, x)


@pytest.mark.parametrize(
    "architecture", ["squeezenet1_0", "patterns", pytest.param("efficientnet_lite0", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("size", [(141, 120), pytest.param((123, 158), marks=pytest.mark.slow)])
def test_built_in_networks_look_no_further_than_the_box(
    architecture: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """With real ReLUs and maxima the gradient lies in the box, and comes near its sides over many units."""
    module = random_module(architecture)
    manifest = add_architecture(tmp_path, architecture, save_weights(module, tmp_path / "w.safetensors"))
    network = Network(module, manifest.mean, manifest.std).double()
    images = torch.rand(1, 3, *size, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    images.requires_grad_()
    spatial = [layer for layer in manifest.layers if len(layer.shape) == 3 and layer.stride][::3]
    for layer, value in zip(
        spatial, network.taps(images, [layer.name for layer in spatial]).values(), strict=True
    ):
        for y, x in (
            (0, 0),
            (value.shape[2] // 2, value.shape[3] // 2),
            (value.shape[2] - 1, value.shape[3] - 1),
        ):
            box = receptive_field(layer, y, x, size).clipped(size)
            seen = support_of(value, images, y, x)
            assert within(seen, box), (layer, y, x)
            assert (seen.right - seen.left) * 1.25 >= box.right - box.left, layer


def test_a_position_that_sees_everything_has_the_whole_image() -> None:
    layer = Layer(
        name="pool", kind="Pool", tensor="pool", shape=(8, 1, 1), stride=0, receptive_field=96,
        receptive_field_start=47.5,
    )  # fmt: skip
    assert receptive_field(layer, 0, 0, (120, 200)) == (0, 0, 200, 120)


def test_what_is_scaled_by_a_global_value_sees_everything() -> None:
    """As in squeeze-and-excitation: a map times something that the whole image decides."""
    nodes = [
        helper.make_node("Relu", [INPUT], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["gate"]),
        helper.make_node("Mul", ["map", "gate"], ["scaled"]),
        helper.make_node("MaxPool", ["scaled"], ["pooled"], kernel_shape=[3, 3], strides=[2, 2]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in ((INPUT, ("N", 3, "H", "W")), ("pooled", None))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "gated", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 18)]
    )
    (layer,) = layers.describe(model, {"pooled": None}, 20)
    assert (layer.stride, layer.receptive_field) == (0, 20)
    assert receptive_field(layer, 3, 1, (20, 20)) == (0, 0, 20, 20)


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        (Box(-3, 2, 5, 9), (0, 2, 5, 8)),
        (Box(7, 7, 30, 30), (7, 7, 10, 8)),
        (Box(-9, -9, -2, -2), (0, 0, 1, 1)),
        (Box(12, 12, 15, 15), (9, 7, 10, 8)),
    ],
)
def test_boxes_are_clipped_to_at_least_a_pixel(box: Box, clipped: tuple[int, ...]) -> None:
    assert box.clipped((8, 10)) == clipped


def test_pixels_index_an_image() -> None:
    image = np.zeros((3, 8, 10))
    image[(..., *Box(2, 1, 5, 3).pixels)] = 1
    assert image.sum() == 3 * 3 * 2
