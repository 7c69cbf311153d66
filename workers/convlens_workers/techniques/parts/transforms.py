"""Random changes of a picture before the network sees it, so that what is found is robust to them."""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

GREY: Final = 0.5


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
    scale, angle = (torch.rand(2, generator=rng) * 2 - 1).tolist()
    scale, angle = 1 + ratio * scale, math.radians(degrees * angle)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    height, width = image.shape[2:]
    matrix = torch.tensor([[cos, -sin * height / width, 0], [sin * width / height, cos, 0]])
    grid = F.affine_grid(matrix.to(image).expand(len(image), 2, 3), list(image.shape), align_corners=False)
    return F.grid_sample(image - GREY, grid, align_corners=False) + GREY


def robust(image: Tensor, rng: torch.Generator) -> Tensor:
    """lucid's: pad 12, jitter 8, scale 0.9 to 1.1, rotate +-10 degrees, jitter 4; the size stays the same."""
    moved = scale_and_rotate(jitter(pad(image, 12), 8, rng), 0.1, 10, rng)
    return jitter(moved[:, :, 6:-6, 6:-6], 4, rng)
