"""Fast style transfer: an image in the style of a network, by one forward pass of it.

Johnson, Alahi, Fei-Fei: Perceptual losses for real-time style transfer and super-resolution (2016),
arXiv:1603.08155.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from convlens_server.backends.base import F32, Backend

MULTIPLE: Final = 4
"""The network halves an image twice and doubles it twice."""
OVERLAP: Final = 128
"""Pixels that neighbouring tiles share: more than what a pixel sees through the convolutions alone."""

Span = tuple[int, int]


def stylise(backend: Backend, image: F32, tile: int) -> F32:
    """The stylised image, of the shape of `image`, (3, H, W) in [0, 1].

    The network rounds sizes up to multiples of 4; what is beyond the image is cut off. An image larger than
    `tile` a side goes through in tiles of one size, whose results are blended over the overlap with linear
    weights, so that memory is bounded by the tile; the last row and column are repeated to fill them. The
    network's instance norms measure contrast in each tile and not in the whole image, so a tiled result is
    near the untiled one but not equal to it: colours may drift slowly between parts of very different
    contrast.
    """
    _, height, width = image.shape
    if max(height, width) <= tile:
        return _pass(backend, image)[:, :height, :width]
    padded = np.pad(image, ((0, 0), (0, -height % MULTIPLE), (0, -width % MULTIPLE)), mode="edge")
    rows, columns = (list(_spans(side, tile)) for side in padded.shape[1:])
    stylised, weights = np.zeros_like(padded), np.zeros((1, *padded.shape[1:]), np.float32)
    for top, bottom in rows:
        down = _ramp(top, bottom, padded.shape[1])[:, None]
        for left, right in columns:
            weight = down * _ramp(left, right, padded.shape[2])
            stylised[:, top:bottom, left:right] += weight * _pass(backend, padded[:, top:bottom, left:right])
            weights[:, top:bottom, left:right] += weight
    stylised /= weights
    return np.clip(stylised[:, :height, :width], 0, 1)


def _pass(backend: Backend, image: F32) -> F32:
    layer = backend.stored.manifest.output
    return np.asarray(backend.forward(np.ascontiguousarray(image[None]), [layer])[layer][0])


def _spans(side: int, tile: int) -> Iterator[Span]:
    """The begin and end of each tile of an axis, evenly spread; the whole side where it fits."""
    tile -= tile % MULTIPLE
    if side <= tile:
        yield 0, side
        return
    overlap = min(OVERLAP, tile // 2)
    count = -(-(side - overlap) // (tile - overlap))
    for number in range(count):
        start = number * (side - tile) // (count - 1)
        start -= start % MULTIPLE
        yield start, start + tile


def _ramp(start: int, end: int, side: int) -> F32:
    """Weights of a tile's positions: rising over the overlap from every end that is not the image's."""
    overlap = min(OVERLAP, (end - start) // 2)
    places = np.arange(end - start, dtype=np.float32)
    weights = np.ones(end - start, np.float32)
    if start > 0:
        weights = np.minimum(weights, (places + 1) / overlap)
    if end < side:
        weights = np.minimum(weights, (places[::-1] + 1) / overlap)
    return weights
