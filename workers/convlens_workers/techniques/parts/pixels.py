"""Operations on pixels: resizing, rolling, blurring, and the length of a step."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens_workers.jobs.techniques.sizes import scaled_size

Size = tuple[int, int]


def scaled(image: Tensor, ratio: float, least: int) -> Tensor:
    """`image` (N, C, H, W) with its sides times `ratio`, each of at least `least` pixels."""
    return resize(image, scaled_size((image.shape[2], image.shape[3]), ratio, least))


def resize(image: Tensor, size: Size) -> Tensor:
    """`image` (N, C, H, W) brought to `size` (height, width), bilinear, with antialiasing."""
    if tuple(image.shape[2:]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def covering(image: Tensor, size: Size) -> Tensor:
    """The middle of `image` (N, C, H, W) brought to `size` (height, width): as much as has that shape."""
    height, width = image.shape[2:]
    ratio = min(height / size[0], width / size[1])
    down, right = (max(1, round(ratio * side)) for side in size)
    top, left = (height - down) // 2, (width - right) // 2
    return resize(image[:, :, top : top + down, left : left + right], size)


def symmetric(rng: torch.Generator, *shape: int) -> Tensor:
    """Random numbers uniform in [-1, 1), drawn on the CPU."""
    return torch.rand(*shape, generator=rng) * 2 - 1


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


def blur(image: Tensor, deviation: float | Tensor = 1.0) -> Tensor:
    """`image` (N, C, H, W) under a Gaussian of standard deviation `deviation` px, one for all or (N).

    The edges are repeated outwards.
    """
    count, channels, height, width = image.shape
    deviations = torch.as_tensor(deviation).to(image).expand(count).clamp_min(1e-3)
    reach = math.ceil(3 * float(deviations.max()))
    offsets = torch.arange(-reach, reach + 1).to(image)
    windows = torch.exp(-(offsets / deviations[:, None]).square() / 2)
    windows = (windows / windows.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    padded = F.pad(image, (reach,) * 4, mode="replicate").view(1, count * channels, height + 2 * reach, -1)
    across = F.conv2d(padded, windows.view(-1, 1, 1, 2 * reach + 1), groups=count * channels)
    down = F.conv2d(across, windows.view(-1, 1, 2 * reach + 1, 1), groups=count * channels)
    return down.view(count, channels, height, width)
