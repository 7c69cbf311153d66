"""Frames of a zoom, and the animated WebP that is made of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

QUALITY: Final = 85


def zoomed(image: Tensor, factor: float) -> Tensor:
    """The middle of `image` (N, C, H, W) in [0, 1], 1 / `factor` of each side, at the size of the whole."""
    if factor == 1:
        return image
    matrix = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).to(image).expand(len(image), 2, 3)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    # Bilinear: bicubic overshoots at edges, and over many frames the dream's contrast would grow without end.
    return F.grid_sample(image, grid, "bilinear", "reflection", align_corners=False).clamp(0, 1)


def eight_bit(image: Tensor) -> Tensor:
    """`image` in [0, 1] rounded to UINT8 values 0 to 255."""
    return (image * 255).round().to(torch.uint8)


def webp(frames: Sequence[Tensor], rate: float) -> Tensor:
    """The bytes, UINT8 (N), of an endless animated WebP of `frames`, each UINT8 (1, 3, H, W).

    There are `rate` a second; a frame lasts whole milliseconds.
    """
    first, *others = (Image.fromarray(frame[0].permute(1, 2, 0).cpu().numpy()) for frame in frames)
    file = io.BytesIO()
    duration = round(1000 / rate)
    first.save(file, "WEBP", save_all=True, append_images=others, duration=duration, loop=0, quality=QUALITY)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
