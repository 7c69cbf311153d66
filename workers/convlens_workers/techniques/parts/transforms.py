"""Random changes of a picture before the network sees it, so that what is found is robust to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens_workers.techniques.parts.camera import GREY, seen, turned
from convlens_workers.techniques.parts.pixels import random_shift, roll, symmetric

View = Callable[[Tensor], Tensor]
"""Pictures (N, C, H, W) as they are seen once, all in the same way, at their size."""


def unchanged(image: Tensor) -> Tensor:
    """The view that shows a picture as it is."""
    return image


class Ranges(NamedTuple):
    """How far a view may go: `pad` and `jitter` in pixels, `scale` as a share, `rotate` in degrees."""

    pad: int
    jitter: int
    scale: float
    rotate: float


def drawn(ranges: Ranges, rng: torch.Generator) -> View:
    """A random view: padded with grey, shifted, scaled and turned about the centre, shifted by half as much.

    What is shifted beyond the grey enters at the opposite edge. Without scaling and turning no pixel is
    interpolated.
    """
    before = random_shift(ranges.jitter, rng)
    ratio, angle = symmetric(rng, 2, 1)
    after = random_shift(ranges.jitter // 2, rng)

    def view(image: Tensor) -> Tensor:
        moved = roll(F.pad(image, (ranges.pad,) * 4, value=GREY), before)
        if ranges.scale or ranges.rotate:
            moved = scaled_and_turned(moved, 1 + ranges.scale * ratio, ranges.rotate * angle)
        height, width = image.shape[2:]
        return roll(moved, after)[:, :, ranges.pad : ranges.pad + height, ranges.pad : ranges.pad + width]

    return view


def scaled_and_turned(image: Tensor, ratio: Tensor, degrees: Tensor) -> Tensor:
    """`image` (N, C, H, W), `ratio` (1) as large, turned by `degrees` (1) about its centre; grey around."""
    size = image.shape[2], image.shape[3]
    return seen(image, turned(degrees, ratio, size).expand(len(image), 3, 3))
