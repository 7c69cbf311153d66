"""Convolutions and poolings of random geometry against float64 autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.pair import Pair

from convlens.errors import InvalidArgument
from convlens_models.graphs.autodiff import ReluRule, differentiate

TOLERANCE = 1e-5
RANDOM = np.random.default_rng(5)
QUICK = settings(max_examples=40, deadline=None, derandomize=True, database=None)


class Geometry(NamedTuple):
    """Sizes of a window that slides over an image, (y, x) each; pads as ONNX lists them."""

    image: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    ceil: bool = False
    batch: int = 1

    @property
    def attributes(self) -> dict[str, list[int]]:
        return {
            "kernel_shape": [*self.kernel],
            "strides": [*self.strides],
            "dilations": [*self.dilations],
            "pads": [*self.pads],
        }

    @property
    def may_begin_behind(self) -> bool:
        """Whether ceil_mode may add a window that begins behind the image: refused, see the test."""
        spans = [self.dilations[i] * (self.kernel[i] - 1) + 1 for i in range(2)]
        return self.ceil and any(self.strides[i] + self.pads[i + 2] > spans[i] for i in range(2))

    def places(self, axis: int) -> int:
        """Windows along an axis; torch drops one that would begin behind the image and its first pad."""
        reach = self.dilations[axis] * (self.kernel[axis] - 1)
        room = self.image[axis] + self.pads[axis] + self.pads[axis + 2] - reach - 1
        count = room // self.strides[axis] + 1
        if (
            self.ceil
            and room % self.strides[axis]
            and count * self.strides[axis] < self.image[axis] + self.pads[axis]
        ):
            count += 1
        return count

    def windows(self, x: torch.Tensor, fill: float) -> torch.Tensor:
        """[N, C, places y, places x, taps], read from the padded image in window order."""
        top, left = self.pads[:2]
        ends = [
            (self.places(i) - 1) * self.strides[i] + self.dilations[i] * (self.kernel[i] - 1) + 1
            for i in range(2)
        ]
        bottom, right = (max(0, ends[i] - self.pads[i] - self.image[i]) for i in range(2))
        padded = F.pad(x, (left, right, top, bottom), value=fill)
        taps = [
            padded[:, :, self._reads(0, ky), self._reads(1, kx)]
            for ky in range(self.kernel[0])
            for kx in range(self.kernel[1])
        ]
        return torch.stack(taps, -1)

    def _reads(self, axis: int, tap: int) -> slice:
        start = tap * self.dilations[axis]
        return slice(start, start + (self.places(axis) - 1) * self.strides[axis] + 1, self.strides[axis])


@st.composite
def geometries(draw: st.DrawFn, pooling: bool = False) -> Geometry:
    kernel = draw(st.tuples(*[st.integers(1, 4)] * 2))
    same = draw(st.booleans())
    stride = draw(st.integers(1, 3))
    strides = (stride, stride) if same else (stride, draw(st.integers(1, 3)))
    dilations = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2)]))
    limit = [k - 1 if pooling else k + 1 for k in kernel * 2]
    pads = tuple(draw(st.integers(0, most)) for most in limit)
    image = draw(st.tuples(*[st.integers(4, 11)] * 2))
    ceil = pooling and draw(st.booleans())
    geometry = Geometry(image, kernel, strides, dilations, pads, ceil, draw(st.integers(1, 2)))  # type: ignore[arg-type]
    reaches = [image[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) for i in range(2)]
    assume(min(reaches) >= 1 and not geometry.may_begin_behind)
    return geometry


def picture(geometry: Geometry, channels: int = 4, levels: int = 0) -> np.ndarray:
    """Noise; with `levels` so coarse that windows tie."""
    noise = np.random.default_rng(3).standard_normal((geometry.batch, channels, *geometry.image))
    return np.round(noise * levels) / levels if levels else noise


def check(pair: Pair) -> None:
    for sizes, (value, gradient) in pair.errors().items():
        assert value < TOLERANCE, sizes
        assert gradient < TOLERANCE, sizes


@QUICK
@given(geometries(), st.sampled_from([(1, 6), (2, 2), (4, 4), (4, 8)]))
@example(Geometry((11, 10), (7, 7), (2, 2), (1, 1), (3, 3, 3, 3)), (1, 5))  # ResNet's first
@example(Geometry((9, 8), (1, 1), (2, 2), (1, 1), (0, 0, 0, 0)), (1, 5))  # its shortcut
@example(Geometry((9, 8), (1, 7), (1, 1), (1, 1), (0, 3, 0, 3)), (1, 5))  # Inception's
@example(Geometry((12, 15), (11, 11), (4, 4), (1, 1), (2, 2, 2, 2)), (1, 5))  # AlexNet's
def test_conv(geometry: Geometry, sizes: tuple[int, int]) -> None:
    groups, outputs = sizes
    pair = Pair(picture(geometry))
    weight = (
        np.random.default_rng(5).standard_normal((outputs, 4 // groups, *geometry.kernel)).astype(np.float32)
    )
    top, left, bottom, right = geometry.pads
    pair.op(
        "Conv", "image", pair.const(weight), group=groups, **geometry.attributes,
        ref=lambda x, w: F.conv2d(
            F.pad(x, (left, right, top, bottom)), w,
            stride=geometry.strides, dilation=geometry.dilations, groups=groups,
        ),
    )  # fmt: skip
    check(pair)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_conv_with_automatic_pads(mode: str) -> None:
    pair = Pair(np.random.default_rng(0).standard_normal((1, 3, 9, 8)))
    weight = np.random.default_rng(1).standard_normal((5, 3, 4, 4)).astype(np.float32)
    pad = {"SAME_UPPER": (1, 2, 1, 2), "SAME_LOWER": (2, 1, 2, 1), "VALID": (0, 0, 0, 0)}[mode]
    pair.op("Conv", "image", pair.const(weight), auto_pad=mode, ref=lambda x, w: F.conv2d(F.pad(x, pad), w))
    check(pair)


@QUICK
@given(geometries(), st.sampled_from([1, 2]))
def test_conv_transpose(geometry: Geometry, groups: int) -> None:
    assume(min(geometry.image[i] + geometry.strides[i] * 3 - 2 * geometry.kernel[i] for i in range(2)) > 4)
    pad = (geometry.pads[0], geometry.pads[1])
    assume(all(pad[i] <= geometry.dilations[i] * (geometry.kernel[i] - 1) for i in range(2)))
    pair = Pair(picture(geometry))
    weight = np.random.default_rng(5).standard_normal((4, 3, *geometry.kernel)).astype(np.float32)
    extra = [stride - 1 for stride in geometry.strides]
    attributes = {**geometry.attributes, "pads": [*pad, *pad]}
    pair.op(
        "ConvTranspose", "image", pair.const(weight), group=groups, output_padding=extra, **attributes,
        ref=lambda x, w: F.conv_transpose2d(
            x, w, stride=geometry.strides, padding=pad, output_padding=extra,
            groups=groups, dilation=geometry.dilations,
        ),
    )  # fmt: skip
    check(pair)


@settings(QUICK, max_examples=80)
@given(geometries(pooling=True), st.sampled_from([0, 1, 2]), st.sampled_from([None, *ReluRule]))
@example(Geometry((13, 14), (3, 3), (2, 2), (1, 1), (0, 0, 0, 0), ceil=True), 1, None)  # SqueezeNet's
@example(Geometry((13, 14), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)), 1, ReluRule.DECONVNET)  # ResNet's
@example(Geometry((13, 14), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), 1, None)  # GoogLeNet's
@example(Geometry((12, 14), (2, 2), (2, 2), (1, 1), (0, 0, 0, 0)), 1, ReluRule.GUIDED)  # VGG's
@example(Geometry((13, 14), (5, 5), (2, 2), (1, 1), (0, 0, 0, 0)), 1, None)  # Too large to compare.
def test_max_pool(geometry: Geometry, levels: int, rule: ReluRule | None) -> None:
    """Windows that overlap add up; of values that tie, the first one counts. Also behind a ReLU."""

    def reference(x: torch.Tensor) -> torch.Tensor:
        windows = geometry.windows(x, -torch.inf)
        return windows.gather(-1, windows.argmax(-1, keepdim=True)).squeeze(-1)

    pair = Pair(picture(geometry, levels=levels), rule or ReluRule.GRADIENT)
    source = pair.relu("image") if rule else "image"
    pair.op("MaxPool", source, ceil_mode=int(geometry.ceil), **geometry.attributes, ref=reference)
    check(pair)


def test_windows_that_may_begin_behind_the_image_are_refused() -> None:
    """ONNX's shape inference counts them, ONNX Runtime and torch do not."""
    pair = Pair(np.zeros((1, 3, 4, 4)))
    pair.op(
        "MaxPool", "image", kernel_shape=[1, 1], strides=[2, 2], ceil_mode=1, ref=lambda x: x[:, :, ::2, ::2]
    )
    with pytest.raises(InvalidArgument, match=r"MaxPool node 'maxpool0'.*ceil_mode"):
        differentiate(pair.model(), "maxpool0")


@settings(QUICK, max_examples=80)
@given(geometries(pooling=True), st.booleans())
@example(Geometry((13, 14), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), True)  # Inception's
def test_average_pool(geometry: Geometry, include: bool) -> None:
    def reference(x: torch.Tensor) -> torch.Tensor:
        top, left, bottom, right = geometry.pads if include else (0, 0, 0, 0)
        ones = F.pad(torch.ones_like(x), (left, right, top, bottom), value=1.0)
        around = geometry._replace(
            image=(geometry.image[0] + top + bottom, geometry.image[1] + left + right),
            pads=tuple(p - q for p, q in zip(geometry.pads, (top, left, bottom, right), strict=True)),  # type: ignore[arg-type]
        )
        counts = around.windows(ones, 0.0)[:, :, : geometry.places(0), : geometry.places(1)].sum(-1)
        return geometry.windows(x, 0.0).sum(-1) / counts

    assume(geometry.dilations == (1, 1))
    pair = Pair(picture(geometry))
    attributes = {k: v for k, v in geometry.attributes.items() if k != "dilations"}
    attributes |= {"ceil_mode": int(geometry.ceil), "count_include_pad": int(include)}
    pair.op("AveragePool", "image", ref=reference, **attributes)
    check(pair)


def attention_over_channels(pair: Pair) -> None:
    """Along the channels' means, as ECA convolves them (Wang et al. 2020, arXiv:1910.03151)."""
    mean = pair.op("GlobalAveragePool", "image", ref=lambda x: x.mean((2, 3), keepdim=True))
    row = pair.op("Reshape", mean, pair.const(np.array([0, 1, -1])), ref=lambda x, _: x.reshape(-1, 1, 6))
    kernel, bias = (pair.const(RANDOM.standard_normal(s).astype(np.float32)) for s in ((3, 1, 3), 3))
    wide = pair.op(
        "Conv", row, kernel, bias, pads=[2, 1], strides=[2],
        ref=lambda x, w, b: F.conv1d(F.pad(x, (2, 1)), w, b, 2),
    )  # fmt: skip
    back = pair.const(RANDOM.standard_normal((3, 2, 3)).astype(np.float32))
    long = pair.op(
        "ConvTranspose", wide, back, strides=[2], output_padding=[1],
        ref=lambda x, w: F.conv_transpose1d(x, w, stride=2, output_padding=1),
    )  # fmt: skip
    most = pair.op(
        "MaxPool", long, kernel_shape=[3], strides=[2], pads=[1, 1], ref=lambda x: F.max_pool1d(x, 3, 2, 1)
    )
    pair.op("AveragePool", most, kernel_shape=[2], ref=lambda x: F.avg_pool1d(x, 2, 1))


def normalisation_over_channels(pair: Pair) -> None:
    """Local response normalisation as PyTorch's newer exporter writes it."""
    square = pair.op("Mul", "image", "image", ref=torch.mul)
    apart = pair.op("Unsqueeze", square, pair.const(np.array([1])), ref=lambda x, _: x[:, None])
    pads = pair.const(np.array([0, 0, 1, 0, 0, 0, 0, 1, 0, 0]))
    padded = pair.op("Pad", apart, pads, ref=lambda x, _: F.pad(x, (0, 0, 0, 0, 1, 1)))
    mean = pair.op(
        "AveragePool", padded, kernel_shape=[3, 1, 1], strides=[1, 1, 1],
        ref=lambda x: F.avg_pool3d(x, (3, 1, 1), 1),
    )  # fmt: skip
    joined = pair.op("Squeeze", mean, pair.const(np.array([1])), ref=lambda x, _: x[:, 0])
    pair.op("Mul", "image", joined, ref=torch.mul)


def volume_with_a_trivial_axis(pair: Pair) -> None:
    """As lambda networks have it (Bello 2021, arXiv:2102.08602)."""
    apart = pair.op("Unsqueeze", "image", pair.const(np.array([1])), ref=lambda x, _: x[:, None])
    kernel = pair.const(RANDOM.standard_normal((4, 1, 3, 1, 2)).astype(np.float32))
    pair.op(
        "Conv", apart, kernel, pads=[1, 0, 0, 1, 0, 1], strides=[2, 1, 1],
        ref=lambda x, w: F.conv3d(F.pad(x, (0, 1, 0, 0, 1, 1)), w, stride=(2, 1, 1)),
    )  # fmt: skip


def kernel_of_the_image(pair: Pair) -> None:
    """As conditionally parametrised convolutions have it (Yang et al. 2019, arXiv:1904.04971)."""
    mean = pair.op(
        "ReduceMean", "image", pair.const(np.array([0, 2])), ref=lambda x, _: x.mean((0, 2), keepdim=True)
    )
    mixing = pair.const(RANDOM.standard_normal((8, 3 * 6)).astype(np.float32))
    flat = pair.op("MatMul", mean, mixing, ref=torch.matmul)
    kernel = pair.op(
        "Reshape", flat, pair.const(np.array([6, 3, 3, 2])), ref=lambda x, _: x.reshape(6, 3, 3, 2)
    )
    flat = pair.op(
        "ReduceMean", "image", pair.const(np.array([0, 2, 3])), keepdims=0, ref=lambda x, _: x.mean((0, 2, 3))
    )
    pair.op(
        "Conv", "image", kernel, flat, group=2, pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2],
        ref=lambda x, w, b: F.conv2d(F.pad(x, (0, 1, 1, 2)), w, b, (2, 1), dilation=(1, 2), groups=2),
    )  # fmt: skip


def pool_of_infinite_pads(pair: Pair) -> None:
    """As TensorFlow's SAME pads come out of some exporters."""
    lowest = pair.const(np.array(-np.inf, np.float32))
    pads = pair.const(np.array([0, 0, 1, 1, 0, 0, 2, 1]))
    padded = pair.op("Pad", "image", pads, lowest, ref=lambda x, *_: F.pad(x, (1, 1, 1, 2), value=-torch.inf))
    near = pair.op("MaxPool", padded, kernel_shape=[3, 3], ref=lambda x: F.max_pool2d(x, 3, 1))
    pair.op("MaxPool", near, kernel_shape=[2, 2], strides=[2, 2], ref=lambda x: F.max_pool2d(x, 2, 2))


@pytest.mark.parametrize(
    "build",
    [
        attention_over_channels,
        normalisation_over_channels,
        pool_of_infinite_pads,
        volume_with_a_trivial_axis,
        kernel_of_the_image,
    ],
)
def test_windows_as_they_come_out_of_exporters(build: Callable[[Pair], None]) -> None:
    pair = Pair(RANDOM.standard_normal((2, 6, 7, 8)).astype(np.float32) - 1)
    build(pair)
    for sizes, errors in pair.errors().items():
        assert max(errors) < TOLERANCE, sizes
