"""Operators written out as others: values and gradients against float64 torch."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from support.pair import Pair

from convlens_models.graphs.functions import written_out

RANDOM = np.random.default_rng(3)
TOLERANCE = 1e-5
MODES = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}


class Written(Pair):
    """A pair whose graph is written out."""

    def model(self, sizes: tuple[Any, ...] = ("N", 3, "H", "W")) -> onnx.ModelProto:
        return written_out(super().model(sizes))


def noise(*shape: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (RANDOM.standard_normal(shape) * scale + shift).astype(np.float32)


def check(pair: Pair) -> None:
    for sizes, errors in pair.errors().items():
        assert max(errors) < TOLERANCE, sizes


@pytest.mark.parametrize(
    ("mode", "padding", "align"),
    [(m, p, a) for m, p, a in product(MODES, ("zeros", "border", "reflection"), (0, 1))],
)
def test_grid_sample_equals_torch_by_image_and_grid(mode: str, padding: str, align: int) -> None:
    """The grid reaches beyond the image; it is made of the image, as a spatial transformer does."""

    def sample(x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        return F.grid_sample(x, grid, mode, padding, bool(align))

    pair = Written(noise(2, 2, 5, 6), opset=20)
    grid = pair.op("Transpose", "image", ref=lambda x: x.permute(0, 2, 3, 1), perm=[0, 2, 3, 1])
    pair.op(
        "GridSample", "image", grid, ref=sample, mode=MODES[mode], padding_mode=padding, align_corners=align
    )
    check(pair)


def test_group_normalization_equals_torch_also_far_from_zero() -> None:
    pair = Written(noise(2, 4, 5, 6, shift=300.0), opset=21)
    scale, bias = pair.const(noise(4)), pair.const(noise(4))
    pair.op(
        "GroupNormalization", "image", scale, bias, num_groups=2, epsilon=1e-3,
        ref=lambda x, s, b: F.group_norm(x, 2, s, b, 1e-3),
    )  # fmt: skip
    for value, gradient in pair.errors().values():
        assert max(value, gradient) < 3e-4  # Of float32 at 300.


def test_what_onnx_defines_is_written_out() -> None:
    pair = Written(noise(2, 4, 5, 6), opset=24)
    pair.op("Attention", "image", "image", "image", ref=F.scaled_dot_product_attention)
    check(pair)


@pytest.mark.parametrize("axis", [-1, 2])
def test_root_mean_square_normalization_equals_torch(axis: int) -> None:
    pair = Written(noise(2, 4, 5, 6), opset=23)
    shape = (2, 4, 5, 6)[axis:]
    scale = pair.const(noise(*shape))
    pair.op("RMSNormalization", "image", scale, ref=lambda x, s: F.rms_norm(x, shape, s, 1e-5), axis=axis)
    check(pair)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization_equals_torch(p: int) -> None:
    pair = Written(noise(2, 4, 5, 6))
    pair.op("LpNormalization", "image", ref=lambda x: x / x.norm(p, 1, True), axis=1, p=p)
    check(pair)


def test_what_no_gradient_passes_stays_as_it_is() -> None:
    """ONNX defines Range by a loop, of whose values nothing is known."""
    pair = Pair(noise(1, 2, 3, 4), opset=20)
    sides = pair.op("Shape", "image", ref=lambda x: torch.tensor([x.shape[3]]), start=3)
    side = pair.op("Squeeze", sides, ref=lambda x: x.reshape(()))
    ends = [pair.const(np.array(value, np.int64)) for value in (0, 1)]
    places = pair.op("Range", ends[0], side, ends[1], ref=lambda a, b, c: torch.arange(4))
    pair.op("Gather", "image", places, axis=3, ref=lambda x, i: x[..., i])
    assert [node.op_type for node in written_out(pair.model()).graph.node][2] == "Range"
    check(pair)


def test_what_has_a_rule_stays_as_it_is() -> None:
    pair = Pair(noise(1, 2, 3, 4), opset=20)
    pair.op("Gelu", "image", ref=F.gelu)
    model = pair.model()
    assert written_out(model) is model
