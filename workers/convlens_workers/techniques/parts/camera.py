"""Pictures as a camera sees them: turned, tilted, lit; each of a batch in its own way, with gradients.

A pose is a homography, (N, 3, 3), from where something is seen to where it is in the picture; places are
(x, y) in [-1, 1], y downwards. Everything random is drawn on the CPU, the same for every device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens.v1 import adversarial_pb2
from convlens_workers.techniques.parts.loop import generator
from convlens_workers.techniques.parts.pixels import Size, symmetric

GREY: Final = 0.5
CORNERS: Final = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
"""The corners of a picture, clockwise from the upper left."""


def poses(
    ranges: adversarial_pb2.Transforms,
    count: int,
    size: Size,
    rng: torch.Generator,
    angle: float | None = None,
) -> Tensor:
    """`count` random poses (N, 3, 3) of pictures of `size`: scaled, turned, then tilted.

    Args:
        ranges: what rotation, scale and perspective are drawn from.
        angle: degrees, for all, instead of a random rotation.
    """
    degrees = ranges.rotation * symmetric(rng, count) if angle is None else torch.full((count,), float(angle))
    scale = 1 + ranges.scale * symmetric(rng, count)
    shifts = ranges.perspective * symmetric(rng, count, 4, 2)
    return turned(degrees, scale, size) @ tilted(shifts)


def turned(degrees: Tensor, scale: Tensor, size: Size) -> Tensor:
    """Poses of pictures of `size`, `scale` (N) as large, turned by `degrees` (N) against the clock."""
    radians, ratio = torch.deg2rad(degrees), size[0] / size[1]
    cos, sin, zero = radians.cos() / scale, radians.sin() / scale, torch.zeros_like(scale)
    rows = (cos, -sin * ratio, zero, sin / ratio, cos, zero, zero, zero, torch.ones_like(scale))
    return torch.stack(rows, 1).view(-1, 3, 3)


def tilted(shifts: Tensor) -> Tensor:
    """Poses by which what lies `shifts` (N, 4, 2), over the side, from a corner is seen in the corner.

    The homography h through four pairs of points, (x, y) to (u, v), with h33 = 1:
    h11 x + h12 y + h13 - u (h31 x + h32 y) = u, and so for v.
    """
    corners = torch.tensor(CORNERS, dtype=torch.float64).expand(len(shifts), 4, 2)
    moved = corners + 2 * shifts.double()
    ones, zeros = torch.ones(len(shifts), 4, 1), torch.zeros(len(shifts), 4, 3)
    points = torch.cat([corners, ones], 2)
    across = torch.cat([points, zeros, -moved[..., :1] * corners], 2)
    down = torch.cat([zeros, points, -moved[..., 1:] * corners], 2)
    values = torch.cat([moved[..., :1], moved[..., 1:]], 1)
    solved = torch.linalg.solve(torch.cat([across, down], 1), values)[..., 0]
    return torch.cat([solved, torch.ones(len(shifts), 1)], 1).view(-1, 3, 3).to(shifts.dtype)


def filled(pose: Tensor) -> Tensor:
    """`pose`, seen from so much nearer that nothing but the picture is seen: the corners lie within it.

    With (u, v, w) = pose (z x, z y, 1), |u| <= w and |v| <= w bound z <= 1 from above at each corner.
    """
    corners = torch.tensor(CORNERS).to(pose)
    slope, start = corners @ pose[:, :, :2].mT, pose[:, None, :, 2]
    steepness = torch.cat([slope[..., :2], -slope[..., :2]], -1) - slope[..., 2:]
    room = torch.cat([start[..., 2:] - start[..., :2], start[..., 2:] + start[..., :2]], -1)
    bounds = torch.where(steepness > 0, room / steepness.clamp_min(1e-9), torch.inf)
    zoom = bounds.flatten(1).amin(1).clamp(max=1)
    return pose * torch.stack([zoom, zoom, torch.ones_like(zoom)], 1)[:, None]


def seen(images: Tensor, pose: Tensor, size: Size | None = None, *, around: float = GREY) -> Tensor:
    """Images (N, C, H, W), each in its pose, bilinear, on a frame of `size`, by default as large as they are.

    One image may be seen in many poses. There is `around` outside of it.
    """
    height, width = size or images.shape[2:]
    pose = pose.to(images)
    y, x = ((2 * torch.arange(n).to(pose) + 1) / n - 1 for n in (height, width))
    places = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width).to(pose)], -1)
    projected = places.view(-1, 3) @ pose.mT
    grid = (projected[..., :2] / projected[..., 2:]).view(-1, height, width, 2)
    return F.grid_sample((images - around).expand(len(pose), -1, -1, -1), grid, align_corners=False) + around


@dataclass(frozen=True)
class Light:
    """Contrast and brightness, (N, 1, 1, 1), and noise, (N, 3, H, W)."""

    contrast: Tensor
    brightness: Tensor
    noise: Tensor

    def __call__(self, images: Tensor, which: slice = slice(None)) -> Tensor:
        """clip(1/2 + contrast (x - 1/2) + brightness + noise, 0, 1); `images` are `which` of the batch."""
        parts = (self.contrast, self.brightness, self.noise)
        contrast, brightness, noise = (part[which].to(images) for part in parts)
        return (GREY + contrast * (images - GREY) + brightness + noise).clamp(0, 1)


def light(ranges: adversarial_pb2.Transforms, count: int, size: Size, rng: torch.Generator) -> Light:
    """Random light for `count` pictures of `size`; the noise of each has its own standard deviation."""
    contrast = 1 + ranges.contrast * symmetric(rng, count, 1, 1, 1)
    brightness = ranges.brightness * symmetric(rng, count, 1, 1, 1)
    deviation = ranges.noise * torch.rand(count, 1, 1, 1, generator=rng)
    return Light(contrast, brightness, deviation * torch.randn(count, 3, *size, generator=rng))


def developed(images: Tensor, gamma: Tensor) -> Tensor:
    """x^gamma, for images in [0, 1] and `gamma` (N)."""
    return images ** gamma.to(images).view(-1, 1, 1, 1)


def held_out(seed: int, number: int) -> torch.Generator:
    """A generator for what a job of `seed` is judged by, unlike the one that its steps draw from."""
    digest = hashlib.sha256(f"held out {seed} {number}".encode()).digest()
    return generator(int.from_bytes(digest[:4], "little"))
