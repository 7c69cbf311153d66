"""Occlusion.

Zeiler, Fergus: Visualizing and understanding convolutional networks (2014), arXiv:1311.2901, section 4.2.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from convlens.errors import InvalidArgument
from convlens_models.attributions.perturbation import FORWARD, Attributed, Perturbation, Totals
from convlens_models.attributions.perturbed_batches import values
from convlens_models.attributions.targets import Target
from convlens_models.backend import F32, F64, Backend

Square = tuple[slice, slice]


def squares_fit(params: Any, size: tuple[int, int]) -> None:
    """The window is no larger than the images, and the stride no larger than the window."""
    if params.window > min(size):
        allowed = f"at most {min(size)}, the smaller side of the images"
        raise InvalidArgument.of("window", params.window, allowed)
    if params.stride > params.window:
        raise InvalidArgument.of("stride", params.stride, f"at most {params.window}, the window")


class Occlusion(Perturbation):
    """T(x) - T(x with a square set to `fill`), at each pixel the mean over the squares that cover it.

    Squares of `window` pixels begin at each multiple of `stride`, up to the first that reaches the edge; what
    reaches beyond it is cut off. (N, 1, H, W), in units of the target; positive where it needs the pixels.
    """

    way, grows, rules = FORWARD, "stride", (squares_fit,)

    @staticmethod
    def copies(params: Any, size: tuple[int, int]) -> int:
        """One a square."""
        return math.prod(len(_starts(extent, params.window, params.stride)) for extent in size)

    def __init__(self, backend: Backend, image: F32, target: Target, params: Any) -> None:
        super().__init__(backend, image, target, params)
        rows, columns = (_starts(extent, params.window, params.stride) for extent in image.shape[1:])
        self._squares = [_square(y, x, params.window) for y, x in product(rows, columns)]

    def empty(self) -> Totals:
        """The target's values behind the squares that cover a pixel, and the number of these, (H, W)."""
        size = self.image.shape[1:]
        return {"left": np.zeros(size), "covers": np.zeros(size)}

    def more(self, totals: Totals, part: slice, rng: np.random.Generator) -> Totals:
        """The sums with the next squares."""
        left, covers = totals["left"].copy(), totals["covers"].copy()
        squares = self._squares[part]
        covered = np.stack([self.image] * len(squares))
        for copy, square in zip(covered, squares, strict=True):
            copy[:, *square] = self.params.fill
        for square, value in zip(squares, values(self.backend, self.target, covered), strict=True):
            left[square] += float(value)
            covers[square] += 1
        return {"left": left, "covers": covers}

    def map(self, totals: Totals) -> F64:
        """The mean of the target over the squares that cover a pixel."""
        left: F64 = totals["left"] / totals["covers"]
        return left

    @classmethod
    def finish(cls, backend: Backend, images: F32, target: Target, maps: F64, params: Any) -> Attributed:
        """How far the target falls."""
        value = values(backend, target, images)
        falls = value[:, None, None, None] - maps[:, None]
        return Attributed(value, falls.astype(np.float32))


def _square(y: int, x: int, side: int) -> Square:
    return slice(y, y + side), slice(x, x + side)


def _starts(extent: int, window: int, stride: int) -> range:
    """The positions at which squares begin, so that they cover the whole extent."""
    return range(0, extent - window + stride, stride)
