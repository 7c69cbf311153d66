"""Textures: patterns that fill the whole sheet. One unit of the drawing is about one period."""

from __future__ import annotations

import numpy as np

from convlens_models.patterns import sdf
from convlens_models.patterns.noise import drifting
from convlens_models.patterns.sdf import Field
from convlens_models.patterns.sheet import Colour, Sheet


def _frac(t: Field) -> Field:
    """Distance from the nearest integer, signed: a saw-tooth in [-0.5, 0.5]."""
    return t - np.round(t)


def _lot(sheet: Sheet, *index: Field) -> Field:
    """A number in [0,1) for each cell of a pattern, found by the cell's integer indices."""
    table = sheet.rng.random((sheet.count, 4096), np.float32)
    key = sum(
        (i.astype(np.int64) * prime for i, prime in zip(index, (73, 151, 283), strict=False)), np.int64(0)
    )
    flat = np.take_along_axis(table, (key % 4096).reshape(sheet.count, -1), axis=1)
    return flat.reshape(sheet.x.shape)


def _mix(a: Colour, b: Colour, t: Field) -> Colour:
    return a + t[:, None] * (b - a)


def _bands(sheet: Sheet, t: Field) -> None:
    """Bands along the level lines of t, one a unit: hard, or soft as a wave; one colour, or two in turn."""
    colour = sheet.colour()
    other = np.where(sheet.chance(0.35)[:, None] > 0, sheet.colour(colour), colour)
    hard = sheet.ink(np.abs(_frac(t)) - sheet.uniform(0.15, 0.33))
    soft = 0.5 + 0.5 * np.cos(2 * np.pi * t)
    cover = np.where(sheet.chance(0.3) > 0, soft, hard)
    sheet.blend(cover, _mix(colour, other, np.round(t) % 2))


def stripes(sheet: Sheet) -> None:
    """Straight bands across the x axis."""
    _bands(sheet, sheet.x)


def waves(sheet: Sheet) -> None:
    """Bands that swing as a sine."""
    length = sheet.uniform(1.2, 2.2)
    _bands(sheet, sheet.y + sheet.uniform(0.3, 0.55) * np.sin(2 * np.pi * sheet.x / length))


def zigzag(sheet: Sheet) -> None:
    """Bands that go up and down in straight lines."""
    length = sheet.uniform(1.2, 2.2)
    _bands(sheet, sheet.y + sheet.uniform(1.4, 2.4) * np.abs(_frac(sheet.x / length)))


def rings(sheet: Sheet) -> None:
    """Bands about a centre."""
    _bands(sheet, sdf.norm(sheet.x, sheet.y) + sheet.uniform(0, 1))


def spiral(sheet: Sheet) -> None:
    """One to three arms that wind about a centre."""
    arms = sheet.choice(1, 1, 2, 3)
    _bands(sheet, sdf.norm(sheet.x, sheet.y) + arms * np.arctan2(sheet.y, sheet.x) / (2 * np.pi))


def sunburst(sheet: Sheet) -> None:
    """Rays from a centre, straight or slightly swirling."""
    rays = np.round(sheet.uniform(7, 15))
    radius = sdf.norm(sheet.x, sheet.y)
    turns = np.arctan2(sheet.y, sheet.x) / (2 * np.pi) + sheet.chance(0.3) * 0.04 * radius
    around = 2 * np.pi * radius / rays
    sheet.fill((np.abs(_frac(turns * rays)) - 0.25) * np.maximum(around, sheet.px), sheet.colour())
    sheet.fill(radius - sheet.uniform(0.15, 0.5), sheet.colour(), sheet.chance(0.4))


def dots(sheet: Sheet) -> None:
    """Discs on a square or staggered lattice, of one colour or two."""
    row = np.round(sheet.y)
    x = sheet.x + 0.5 * (row % 2) * sheet.chance(0.5)
    colour = sheet.colour()
    other = np.where(sheet.chance(0.4)[:, None] > 0, sheet.colour(colour), colour)
    which = (_lot(sheet, np.round(x), row) > 0.5).astype(np.float32)
    sheet.fill(sdf.norm(_frac(x), _frac(sheet.y)) - sheet.uniform(0.17, 0.38), _mix(colour, other, which))


def checks(sheet: Sheet) -> None:
    """A chequerboard."""

    def square_wave(t: Field) -> Field:
        return 1 - 2 * sheet.ink(np.abs(_frac(t)) - 0.25)

    sheet.blend(0.5 + 0.5 * square_wave(sheet.x / 2) * square_wave(sheet.y / 2), sheet.colour())


def grid(sheet: Sheet) -> None:
    """Thin lines along and across."""
    colour, pen = sheet.colour(), sheet.uniform(0.05, 0.12)
    sheet.fill(np.minimum(np.abs(_frac(sheet.x)), np.abs(_frac(sheet.y))) - pen, colour)


def bricks(sheet: Sheet) -> None:
    """Courses of bricks, each shifted by half a brick."""
    row = np.round(sheet.y / 0.5)
    x = sheet.x + 0.5 * (row % 2)
    joint = sheet.uniform(0.02, 0.05)
    brick = sdf.box(_frac(x), sheet.y - 0.5 * row, (0.0, 0.0), (0.5 - joint, 0.25 - joint), 0.03)
    colour = sheet.colour(near=(0.65, 0.27, 0.2))
    shade = 1 + (_lot(sheet, np.round(x), row) - 0.5) * sheet.uniform(0, 0.7)
    sheet.fill(brick, np.clip(colour * shade[:, None], 0, 1))


def scales(sheet: Sheet) -> None:
    """Overlapping discs in staggered rows, each row over the one above it."""
    colour = sheet.colour()
    other = np.where(sheet.chance(0.5)[:, None] > 0, sheet.colour(colour), colour * np.float32(0.5))
    lowest = np.floor(sheet.y / 0.5)
    for step in (1, 0, -1):
        row = lowest + step
        radius = sdf.norm(_frac(sheet.x + 0.5 * (row % 2)), sheet.y - 0.5 * row)
        sheet.fill(radius - 0.56, other * np.float32(0.4))
        sheet.fill(radius - 0.5, _mix(colour, other, np.clip(radius * 2, 0, 1) ** 2))


def hexagons(sheet: Sheet) -> None:
    """Honeycomb: the nearer of two interleaved lattices of cells, with walls between."""
    height = np.float32(np.sqrt(3))
    first = (_frac(sheet.x), height * _frac(sheet.y / height))
    second = (_frac(sheet.x - 0.5), height * _frac(sheet.y / height - 0.5))
    near = sdf.norm(*first) < sdf.norm(*second)
    x, y = (np.abs(np.where(near, a, b)) for a, b in zip(first, second, strict=True))
    middle = np.maximum(x, 0.5 * x + 0.5 * height * y)
    cell = np.round(2 * (sheet.x - np.where(near, first[0], second[0]))), np.round(sheet.y - y)
    colour = sheet.colour()
    shade = 1 + (_lot(sheet, *cell) - 0.5) * sheet.chance(0.5) * sheet.uniform(0.2, 0.8)
    sheet.fill(middle - sheet.uniform(0.36, 0.45), np.clip(colour * shade[:, None], 0, 1))


def plaid(sheet: Sheet) -> None:
    """Tartan: see-through bands of several widths, the same across and along."""
    for period, strength in ((2.0, 0.6), (1.0, 0.5), (2.0, 0.8)):
        colour, half, phase = sheet.colour(), sheet.uniform(0.05, 0.22), sheet.uniform(0, 1)
        for t in (sheet.x, sheet.y):
            band = np.abs(_frac(t / period + phase)) * period - half * period
            sheet.fill(band, colour, strength * sheet.uniform(0.7, 1.0))


def cobbles(sheet: Sheet) -> None:
    """Voronoi cells about jittered lattice points, with joints where two cells meet."""
    cx, cy = np.floor(sheet.x), np.floor(sheet.y)
    table_x, table_y = (sheet.rng.random((sheet.count, 1024), np.float32) for _ in range(2))
    first = np.full_like(sheet.x, 9)
    second, cell = first.copy(), first.copy()
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            key = ((cx + i).astype(np.int64) * 37 + (cy + j).astype(np.int64) * 101) % 1024
            flat = key.reshape(sheet.count, -1)
            jx = np.take_along_axis(table_x, flat, 1).reshape(key.shape)
            jy = np.take_along_axis(table_y, flat, 1).reshape(key.shape)
            far = sdf.norm(sheet.x - cx - i - jx, sheet.y - cy - j - jy)
            second = np.minimum(second, np.maximum(first, far))
            cell = np.where(far < first, jx, cell)
            first = np.minimum(first, far)
    colour = sheet.colour(near=(0.6, 0.57, 0.52))
    shade = 1 + (cell - 0.5) * sheet.uniform(0.1, 0.8) - 0.5 * first * sheet.uniform(0, 1)
    sheet.fill(0.09 - (second - first), np.clip(colour * shade[:, None], 0, 1))


def wood(sheet: Sheet) -> None:
    """Year rings cut lengthwise: bands sharp on one side, bent about a knot, with fine grain."""
    x, y = sheet.x, sheet.y
    bend = sum(
        (a * np.sin(f * x + sheet.uniform(0, 6.3)) for a, f in ((0.45, 0.5), (0.2, 1.1))), np.float32(0)
    )
    knot = sdf.ellipse(x, y, (sheet.uniform(-2, 2), sheet.uniform(-2, 2)), 1.5, 0.8)
    rise = sheet.chance(0.7) * 1.8 * np.exp(-np.clip(knot + 0.8, 0, None) * 1.6)
    t = y * sheet.uniform(0.8, 1.3) + bend + rise * np.sign(sheet.uniform(-1, 1))
    late = (t - np.floor(t)) ** 2
    early = sheet.colour(near=(0.78, 0.56, 0.33))
    sheet.paper = early
    sheet.image[:] = early
    sheet.blend(late * sheet.uniform(0.7, 1.0), sheet.colour(near=(0.36, 0.2, 0.1)))
    grain = _lot(sheet, np.floor(x * 2.5), np.floor(y * 14))
    sheet.image *= 1 + (grain[:, None] - 0.5) * sheet.uniform(0.1, 0.4)[:, None]


def leopard(sheet: Sheet) -> None:
    """Dark broken rosettes about jittered points."""
    near, colour = np.full_like(sheet.x, 9), sheet.colour(near=(0.12, 0.08, 0.06))
    angle = near.copy()
    cx, cy = np.floor(sheet.x), np.floor(sheet.y)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            jx, jy = _lot(sheet, cx + i, cy + j), sheet.uniform(0, 0)
            dx, dy = sheet.x - cx - i - 0.25 - 0.5 * jx, sheet.y - cy - j - 0.5 + jy
            far = sdf.norm(dx, dy)
            angle = np.where(far < near, np.arctan2(dy, dx) + 9 * jx, angle)
            near = np.minimum(near, far)
    sheet.fill(near - 0.3, np.clip(sheet.paper * np.float32(0.7), 0, 1))
    broken = np.abs(near - 0.29) - 0.09 * np.clip(0.4 + np.sin(2 * angle) + 0.6 * np.sin(3 * angle), 0, 1)
    sheet.fill(broken, colour)


def clouds(sheet: Sheet) -> None:
    """Drifting colours without any edge: three paints mixed by smooth noise."""
    size = sheet.image.shape[-1]
    first, second = sheet.colour(), sheet.colour()
    sheet.blend(np.clip(0.5 + 0.45 * drifting(sheet.rng, sheet.count, size, 1.7), 0, 1), first)
    sheet.blend(np.clip(0.45 * drifting(sheet.rng, sheet.count, size, 1.7), 0, 1), second)
