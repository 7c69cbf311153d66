"""Random changes of a picture before the network sees it, so that what is found is robust to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens_workers.techniques.parts.camera import GREY, seen, turned
from convlens_workers.techniques.parts.pixels import symmetric


def pad(image: Tensor, margin: int) -> Tensor:
    """`image` (N, C, H, W) with `margin` grey pixels on each side."""
    return F.pad(image, (margin,) * 4, value=GREY)


def jitter(image: Tensor, pixels: int, rng: torch.Generator) -> Tensor:
    """A random window, `pixels` smaller on both axes."""
    down, right = torch.randint(pixels + 1, (2,), generator=rng).tolist()
    height, width = image.shape[2] - pixels, image.shape[3] - pixels
    return image[:, :, down : down + height, right : right + width]


def scale_and_rotate(image: Tensor, ratio: float, degrees: float, rng: torch.Generator) -> Tensor:
    """`image` scaled by 1 - ratio .. 1 + ratio and turned by +-degrees about its centre; grey around."""
    scale, angle = symmetric(rng, 2, 1)
    size = image.shape[2], image.shape[3]
    return seen(image, turned(degrees * angle, 1 + ratio * scale, size).expand(len(image), 3, 3))


def robust(image: Tensor, rng: torch.Generator) -> Tensor:
    """lucid's: pad 12, jitter 8, scale 0.9 to 1.1, rotate +-10 degrees, jitter 4; the size stays the same."""
    moved = scale_and_rotate(jitter(pad(image, 12), 8, rng), 0.1, 10, rng)
    return jitter(moved[:, :, 6:-6, 6:-6], 4, rng)
