"""Sizes, shifts and step lengths of pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def resize(image: Tensor, size: Size) -> Tensor:
    """`image` (N, C, H, W) brought to `size` (height, width), bilinear, with antialiasing."""
    if tuple(image.shape[2:]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def random_shift(largest: int, rng: torch.Generator) -> Size:
    """Rows and columns to roll by, each uniform in -largest..largest."""
    down, right = torch.randint(-largest, largest + 1, (2,), generator=rng).tolist()
    return down, right


def roll(image: Tensor, shift: Size) -> Tensor:
    """`image` moved by `shift` (rows, columns); what leaves at one edge enters at the other."""
    return torch.roll(image, shift, dims=(2, 3))


def unit_mean(gradient: Tensor) -> Tensor:
    """`gradient` over its mean magnitude, so that a step has a length of its own; zero stays zero."""
    return gradient / gradient.abs().mean().clamp_min(torch.finfo(gradient.dtype).tiny)


def blur(image: Tensor) -> Tensor:
    """`image` (N, C, H, W) under a Gaussian of standard deviation 1 px; the edges are repeated outwards."""
    offsets = torch.arange(-3, 4, dtype=image.dtype, device=image.device)
    window = torch.exp(-offsets.square() / 2)
    window = window / window.sum()
    channels = image.shape[1]
    padded = F.pad(image, (3, 3, 3, 3), mode="replicate")
    across = F.conv2d(padded, window.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(across, window.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)
