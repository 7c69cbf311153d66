"""Random variations of pictures, which substitute attacks ask about and train on."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens_workers.techniques.parts.pixels import symmetric


def placed(images: Tensor, rng: torch.Generator, degrees: float, zoom: float, shift: float) -> Tensor:
    """`images` (N, 3, H, W), each turned by +-degrees, scaled by e^(+-zoom), moved by +-shift half sides.

    The picture goes on beyond its edges as if mirrored there.
    """
    angle = symmetric(rng, len(images)) * math.radians(degrees)
    scale = (symmetric(rng, len(images)) * zoom).exp()
    across, down = symmetric(rng, 2, len(images)) * shift
    cos, sin, ratio = angle.cos() * scale, angle.sin() * scale, images.shape[2] / images.shape[3]
    rows = torch.stack([cos, -sin * ratio, across, sin / ratio, cos, down], 1).view(-1, 2, 3)
    grid = F.affine_grid(rows.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def lit(images: Tensor, rng: torch.Generator, strength: float) -> Tensor:
    """`images` with contrast 1 +- strength, and each colour +- strength brighter."""
    contrast = 1 + strength * symmetric(rng, len(images), 1, 1, 1).to(images)
    brightness = strength * symmetric(rng, len(images), 3, 1, 1).to(images)
    return (0.5 + contrast * (images - 0.5) + brightness).clamp(0, 1)


def recoloured(images: Tensor, rng: torch.Generator) -> Tensor:
    """`images`, half of them mirrored, their colours exchanged at random, three in ten inverted."""
    count = len(images)
    mirrored = (torch.rand(count, 1, 1, 1, generator=rng) < 0.5).to(images.device)
    order = torch.rand(count, 3, generator=rng).argsort(1).to(images.device)
    inverted = (torch.rand(count, 3, 1, 1, generator=rng) < 0.3).to(images.device)
    images = torch.where(mirrored, images.flip(3), images)
    images = images.gather(1, order[:, :, None, None].expand_as(images))
    return torch.where(inverted, 1 - images, images)
