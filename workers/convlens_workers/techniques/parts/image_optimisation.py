"""Optimises the pixels of an image, scale by scale, so that losses on features of a network get small."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens_workers.jobs.techniques.sizes import margin
from convlens_workers.techniques.base import FeatureNetwork, State
from convlens_workers.techniques.parts.loop import LOSS, Losses
from convlens_workers.techniques.parts.losses import Part, total
from convlens_workers.techniques.parts.optimisers import MEMORY, VARIABLE, Optimiser
from convlens_workers.techniques.parts.pixels import Size

PIXELS = ""
"""Stands for the picture itself where a layer is named."""

Frame = Literal["reflect", "circular"]
AVERAGE, REST, DECAY = "average", "rest", 0.99
"""The moving average, what it still lacks to 1, and what of it a step keeps."""


@dataclass(frozen=True)
class ImageOptimisation:
    """A stage of the loop that optimises the image at one scale.

    Attributes:
        size: of the picture, height and width.
        make_parts: the losses at this scale; called once.
        begin: the picture at the start of the first scale.
        frame: how the picture is continued beyond its edges before the network sees it.
    """

    steps: int
    size: Size
    network: FeatureNetwork
    make_parts: Callable[[], Sequence[Part]]
    begin: Callable[[Size, torch.Generator], Tensor]
    optimiser: Optimiser
    frame: Frame = "reflect"

    @cached_property
    def parts(self) -> Sequence[Part]:
        """The losses at this scale, made when first needed."""
        with torch.no_grad():
            return self.make_parts()

    def start(self, last: State, rng: torch.Generator) -> State:
        """The picture of the scale before, brought to this size."""
        if not last:
            return {VARIABLE: self.begin(self.size, rng)}
        return {VARIABLE: F.interpolate(self.picture(last), self.size, mode="bicubic").clamp(0, 1)}

    def advance(self, held: State, _rng: torch.Generator) -> tuple[State, Losses]:
        """The state after a step of the optimiser."""
        return self.optimiser.step(held, self.evaluate)

    def evaluate(self, image: Tensor) -> tuple[Tensor, Losses]:
        """The weighted sum of the losses for an image; it once more by name, and each of them."""
        layers = dict.fromkeys(part.layer for part in self.parts if part.layer != PIXELS)
        values = features(self.network, image, layers, self.frame)
        whole, terms = total(self.parts, {PIXELS: image, **values})
        return whole, {LOSS: whole, **terms}

    def picture(self, held: State) -> Tensor:
        """The picture within its range."""
        return held[VARIABLE].clamp(0, 1)


@dataclass(frozen=True)
class AveragedImageOptimisation(ImageOptimisation):
    """With Adam, within [0, 1], its moments carried from scale to scale; the picture is a moving average."""

    def start(self, last: State, rng: torch.Generator) -> State:
        """The picture of the scale before, with Adam's moments, at this size."""
        image = super().start(last, rng)[VARIABLE]
        memory = {
            name: self._enlarged(name, value) for name, value in last.items() if name.startswith(MEMORY)
        }
        return {VARIABLE: image, **memory, **self._average(torch.zeros_like(image), torch.ones(()), image)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """The state after a step of the optimiser, with the average moved on."""
        after, losses = super().advance(held, rng)
        image = after[VARIABLE].clamp(0, 1)
        return {**after, VARIABLE: image, **self._average(held[AVERAGE], held[REST], image)}, losses

    def picture(self, held: State) -> Tensor:
        """The average of the pictures so far."""
        return (held[AVERAGE] / (1 - held[REST])).clamp(0, 1)

    def _average(self, average: Tensor, rest: Tensor, image: Tensor) -> State:
        return {AVERAGE: DECAY * average + (1 - DECAY) * image, REST: DECAY * rest.to(image.device)}

    def _enlarged(self, name: str, value: Tensor) -> Tensor:
        """A moment of Adam at this size; the second one stays positive."""
        if value.ndim != 4:
            return value
        if name.endswith("_sq"):
            return F.interpolate(value, self.size, mode="bilinear").clamp_min(0)
        return F.interpolate(value, self.size, mode="bicubic")


def features(
    network: FeatureNetwork, image: Tensor, layers: Iterable[str], frame: Frame = "reflect"
) -> dict[str, Tensor]:
    """Values of `layers` at the positions of `image`, which goes on beyond its edges.

    The frame's own positions are cut off: with them, pixels near the edges, which are in the frame too, would
    count up to four times, and statistics would be met there alone.
    """
    seen = framed(image, frame)
    values = network.taps(seen, layers)
    return {name: _within(value, seen, image) for name, value in values.items()}


def _within(value: Tensor, seen: Tensor, image: Tensor) -> Tensor:
    """Of `value` (N, C, H, W), a layer's for `seen`, the middle: one position for each stride of `image`.

    The stride is a power of two; unpadded convolutions lose positions, so that sizes alone give it roughly.
    """
    for axis in (2, 3):
        positions = value.shape[axis]
        stride = 2 ** round(math.log2(seen.shape[axis] / positions))
        kept = min(positions, math.ceil(image.shape[axis] / stride))
        value = value.narrow(axis, (positions - kept) // 2, kept)
    return value


def framed(image: Tensor, mode: Frame = "reflect") -> Tensor:
    """`image` continued by up to 32 pixels beyond each edge."""
    return F.pad(image, (margin((image.shape[2], image.shape[3])),) * 4, mode=mode)
