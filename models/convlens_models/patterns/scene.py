"""What surrounds a drawing: its place on the paper, what else lies there, light, lens and film."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from convlens_models.patterns import sdf
from convlens_models.patterns.noise import drifting
from convlens_models.patterns.sdf import Field
from convlens_models.patterns.sheet import Colour, Sheet


class Pose(NamedTuple):
    """How a motif may lie on the paper: angles in degrees, zooms in drawing units to half a side."""

    turn: float = 0.0
    spin: float = 180.0
    zoom: tuple[float, float] = (1.15, 2.4)
    shift: float = 0.35
    mirror: bool = True
    bend: float = 0.09


def lay_out(rng: np.random.Generator, count: int, size: int, pose: Pose) -> Sheet:
    """Blank sheets with the coordinates of a posed drawing: mirrored, turned, stretched, shifted and bent."""

    def uniform(low: float, high: float) -> Field:
        return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)

    line = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x: Field = np.broadcast_to(line[None, None, :], (count, size, size))
    y: Field = -line[None, :, None]
    for _ in range(2):
        wave = uniform(1.0, 4.0)
        x, y = (
            x + uniform(0, pose.bend) * np.sin(wave * y + uniform(0, 6.3)),
            y + uniform(0, pose.bend) * np.sin(wave * x + uniform(0, 6.3)),
        )
    x, y = x + uniform(-pose.shift, pose.shift), y + uniform(-pose.shift, pose.shift)
    angle = np.deg2rad(pose.turn + pose.spin * uniform(-1, 1)).astype(np.float32)
    x, y = sdf.turned(x, y, angle)
    if pose.mirror:
        x = x * rng.choice(np.array([-1, 1], np.float32), (count, 1, 1))
    zoom = np.exp(uniform(*np.log(pose.zoom)))
    x, y = x * zoom * uniform(0.87, 1.15), y * zoom * uniform(0.87, 1.15)
    return Sheet(rng, x, y, zoom * (2 / size) * uniform(0.6, 1.2))


def surroundings(sheet: Sheet) -> None:
    """A background that is never quite plain: a second colour drifting in, a far edge, litter."""
    size = sheet.image.shape[-1]
    drift = drifting(sheet.rng, sheet.count, size, 1.6) * sheet.uniform(0, 0.35) + sheet.uniform(-0.1, 0.4)
    sheet.blend(np.clip(drift, 0, 0.7), _muted(sheet, 0.8))
    u, v = sdf.turned(sheet.x, sheet.y, sheet.uniform(0, 6.3))
    sheet.fill(u + 0.1 * v * v - sheet.uniform(-1, 1), _muted(sheet, 0.7), sheet.chance(0.35))
    for _ in range(4):
        litter(sheet, _muted(sheet, 1.0), 0.45)


def litter(sheet: Sheet, colour: Colour, probability: float) -> None:
    """Perhaps a stroke or a blob somewhere on the sheet."""
    reach = np.abs(sheet.x).max((1, 2), keepdims=True)
    at, end = (
        (reach * sheet.uniform(-0.9, 0.9), reach * sheet.uniform(-0.9, 0.9)),
        (reach * sheet.uniform(-0.9, 0.9), reach * sheet.uniform(-0.9, 0.9)),
    )
    stroke = sdf.segment(sheet.x, sheet.y, at, end, reach * sheet.uniform(0.01, 0.05))
    blob = sdf.ellipse(
        sheet.x, sheet.y, at, reach * sheet.uniform(0.04, 0.16), reach * sheet.uniform(0.04, 0.16)
    )
    sheet.fill(np.where(sheet.chance(0.5) > 0, stroke, blob), colour, sheet.chance(probability))


def _muted(sheet: Sheet, most: float) -> Colour:
    """A colour between the paper and another, so that a figure's colour stays apart from its background."""
    other = sheet.colour()
    mix = sheet.uniform(0.15, most * 0.75)[:, None]
    blended: Colour = sheet.paper + mix * (other - sheet.paper)
    return blended


def photograph(sheet: Sheet) -> Field:
    """The sheet as a camera might see it: side light, tint, contrast, blur and grain."""
    rng, image, size = sheet.rng, sheet.image, sheet.image.shape[-1]
    line = np.linspace(-1, 1, size, dtype=np.float32)
    slope, angle = sheet.uniform(0, 0.35), sheet.uniform(0, 6.3)
    light = 1 + slope * (np.cos(angle) * line[None, None, :] + np.sin(angle) * line[None, :, None])
    light += drifting(rng, sheet.count, size, 1.3) * sheet.uniform(0, 0.08)
    image = image * light[:, None]
    image = (image - 0.5) * sheet.uniform(0.55, 1.15)[:, None] + 0.5 + sheet.uniform(-0.12, 0.12)[:, None]
    image += rng.normal(0, 0.04, (sheet.count, 3, 1, 1)).astype(np.float32)
    image = _blurred(image, (sheet.chance(0.4) * sheet.uniform(0, 1))[:, None])
    grain = sheet.uniform(0, 1)[:, None] ** 2 * 0.075
    image += grain * rng.standard_normal(image.shape, np.float32)
    photo: Field = np.clip(image, 0, 1, dtype=np.float32)
    return photo


def _blurred(image: Field, amount: Field) -> Field:
    """Mixed with its own average over a 3x3 binomial window."""
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    soft = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16
    mixed: Field = image + amount * (soft - image)
    return mixed
