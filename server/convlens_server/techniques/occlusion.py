"""Occlusion.

Zeiler, Fergus: Visualizing and understanding convolutional networks (2014), arXiv:1311.2901, section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np

from convlens.errors import InvalidArgument
from convlens.v1 import attribution_pb2
from convlens_server.techniques.base import F32, F64, Attributed, Backend, Target
from convlens_server.techniques.parts.perturbed_batches import batches, values

Square = tuple[slice, slice]


def occlusion(backend: Backend, images: F32, target: Target, params: attribution_pb2.Occlusion) -> Attributed:
    """T(x) - T(x with a square set to `fill`), at each pixel the mean over the squares that cover it.

    Squares of `window` pixels begin at each multiple of `stride`, up to the first that reaches the edge; what
    reaches beyond it is cut off. (N, 1, H, W), in units of the target; positive where it needs the pixels.

    Raises:
        InvalidArgument: a window larger than the images, or a stride larger than the window.
    """
    height, width = images.shape[2:]
    if params.window > min(height, width):
        allowed = f"at most {min(height, width)}, the smaller side of the images"
        raise InvalidArgument.of("window", params.window, allowed)
    if params.stride > params.window:
        raise InvalidArgument.of("stride", params.stride, f"at most {params.window}, the window")
    rows, columns = (_starts(extent, params.window, params.stride) for extent in (height, width))
    squares = [_square(y, x, params.window) for y, x in product(rows, columns)]
    value = values(backend, target, images)
    left = [_mean_left(backend, image, target.of(i), squares, params.fill) for i, image in enumerate(images)]
    falls = value[:, None, None, None] - np.stack(left)[:, None]
    return Attributed(value, falls.astype(np.float32))


def number_of_squares(params: attribution_pb2.Occlusion, size: tuple[int, int]) -> int:
    """The number of squares that an image of this height and width is covered by, one after the other."""
    return math.prod(len(_starts(extent, params.window, params.stride)) for extent in size)


def _mean_left(backend: Backend, image: F32, target: Target, squares: Sequence[Square], fill: float) -> F64:
    """At each pixel the mean of the target over the squares that cover it, (H, W)."""
    left, covers = np.zeros(image.shape[1:]), np.zeros(image.shape[1:])
    for part in batches(len(squares), left.size):
        covered = np.stack([image] * (part.stop - part.start))
        for copy, square in zip(covered, squares[part], strict=True):
            copy[:, *square] = fill
        for square, value in zip(squares[part], values(backend, target, covered), strict=True):
            left[square] += float(value)
            covers[square] += 1
    return left / covers


def _square(y: int, x: int, side: int) -> Square:
    return slice(y, y + side), slice(x, x + side)


def _starts(extent: int, window: int, stride: int) -> range:
    """The positions at which squares begin, so that they cover the whole extent."""
    return range(0, extent - window + stride, stride)
