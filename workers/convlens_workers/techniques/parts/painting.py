"""Pixels brought, scale by scale, to where the features of a network are as they should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens_workers.techniques.base import State, Taps
from convlens_workers.techniques.parts.loop import Losses
from convlens_workers.techniques.parts.losses import Part, total
from convlens_workers.techniques.parts.optimisers import VARIABLE, Optimiser
from convlens_workers.techniques.parts.pixels import Size

PIXELS = ""
"""Stands for the picture itself where a layer is named."""

MARGIN: Final = 32
"""Pixels around the picture, so that those at its edges count as much as others, and seams are seen."""


@dataclass(frozen=True)
class Painting:
    """A scale: a stage of the loop.

    Attributes:
        size: of the picture, height and width.
        make_parts: the losses at this scale; called once.
        begin: the picture at the start of the first scale.
        seamless: the network sees the picture continued periodically instead of mirrored at its edges.
    """

    steps: int
    size: Size
    network: Taps
    make_parts: Callable[[], Sequence[Part]]
    begin: Callable[[Size, torch.Generator], Tensor]
    optimiser: Optimiser
    seamless: bool = False

    @cached_property
    def parts(self) -> Sequence[Part]:
        """The losses."""
        with torch.no_grad():
            return self.make_parts()

    def start(self, last: State, rng: torch.Generator) -> State:
        """The picture, from the scale before."""
        if not last:
            return {VARIABLE: self.begin(self.size, rng)}
        return {VARIABLE: F.interpolate(last[VARIABLE], self.size, mode="bicubic").clamp(0, 1)}

    def advance(self, held: State, _rng: torch.Generator) -> tuple[State, Losses]:
        """A step of the optimiser."""
        return self.optimiser.step(held, self.evaluate)

    def evaluate(self, image: Tensor) -> tuple[Tensor, Losses]:
        """The sum of the losses, and each of them."""
        seen = framed(image, "circular" if self.seamless else "reflect")
        layers = dict.fromkeys(part.layer for part in self.parts if part.layer != PIXELS)
        return total(self.parts, {PIXELS: image, **self.network.taps(seen, layers)})

    def picture(self, held: State) -> Tensor:
        """The picture as it is, within its range."""
        return held[VARIABLE].clamp(0, 1)


def framed(image: Tensor, mode: Literal["reflect", "circular"] = "reflect") -> Tensor:
    """`image` as the network sees it, with a frame of itself; what it is compared with must be framed too."""
    margin = min(MARGIN, image.shape[2] - 1, image.shape[3] - 1)
    return F.pad(image, (margin,) * 4, mode=mode)


def scales(size: Size, count: int, ratio: float, smallest: int) -> list[Size]:
    """Up to `count` sizes, each `ratio` times the one before, up to `size`; none below `smallest`."""
    factors = [ratio**-n for n in reversed(range(1, count))]
    sizes = [(round(size[0] * factor), round(size[1] * factor)) for factor in factors]
    return [found for found in sizes if min(found) >= smallest] + [size]
