"""Laplacian pyramids (Burt & Adelson 1983)."""

from __future__ import annotations

import torch
from torch import Tensor

from convlens_workers.techniques.parts.pixels import resize


def bands(image: Tensor, count: int) -> list[Tensor]:
    """`count` bands of `image` (N, C, H, W), each an octave below the one before, and what remains.

    A band is the picture less its half-sized version brought back to size; `merged` gives the picture again.
    """
    pyramid = []
    for _ in range(count):
        height, width = image.shape[2:]
        low = resize(image, (-(-height // 2), -(-width // 2)))
        pyramid.append(image - resize(low, (height, width)))
        image = low
    return [*pyramid, image]


def merged(pyramid: list[Tensor]) -> Tensor:
    """The picture whose bands these are; the reverse of `bands`."""
    image = pyramid[-1]
    for band in reversed(pyramid[:-1]):
        image = resize(image, (band.shape[2], band.shape[3])) + band
    return image


def equalised(image: Tensor, count: int) -> Tensor:
    """`image` with its `count` bands, and what remains, each at a root mean square of 1; zero stays zero."""
    return merged([band / _strength(band) for band in bands(image, count)])


def _strength(band: Tensor) -> Tensor:
    return band.square().mean().sqrt().clamp_min(torch.finfo(band.dtype).tiny)
