"""Plain figures of one colour, and letters, about one unit in radius."""

from __future__ import annotations

import numpy as np

from convlens_models.patterns import sdf
from convlens_models.patterns.sheet import Sheet


def star(sheet: Sheet) -> None:
    """Five to seven points."""
    points = sheet.choice(5, 5, 5, 6, 7)
    x, y = sdf.folded(sheet.x, sheet.y, points)
    inner, half = sheet.uniform(0.38, 0.5), np.pi / points
    ax, ay = inner * np.cos(half), inner * np.sin(half)
    length = sdf.norm(1 - ax, ay)
    sheet.draw(((x - 1) * ay + (1 - ax) * np.abs(y)) / length, sheet.colour())


def heart(sheet: Sheet) -> None:
    """Two lobes and a tip."""
    x, y = np.abs(sheet.x) * 0.65, sheet.y * 0.65 + 0.55
    lobe = sdf.norm(x - 0.25, y - 0.75) - np.float32(np.sqrt(2) / 4)
    foot = np.maximum(x + y, 0) / 2
    tip = np.sqrt(np.minimum(x**2 + (y - 1) ** 2, (x - foot) ** 2 + (y - foot) ** 2)) * np.sign(x - y)
    sheet.draw(np.where(x + y > 1, lobe, tip) / 0.65, sheet.colour(near=(0.85, 0.12, 0.2)))


def triangle(sheet: Sheet) -> None:
    """Three equal sides, nearly."""
    sheet.draw(sdf.convex(sheet.x, sheet.y, [(-0.95, -0.65), (0.95, -0.65), (0.0, 0.95)]), sheet.colour())


def square(sheet: Sheet) -> None:
    """Corners sharp or slightly round."""
    sheet.draw(sdf.box(sheet.x, sheet.y, (0.0, 0.0), (0.75, 0.75), sheet.uniform(0, 0.12)), sheet.colour())


def disc(sheet: Sheet) -> None:
    """A filled circle."""
    sheet.draw(sdf.circle(sheet.x, sheet.y, (0.0, 0.0), 0.85), sheet.colour())


def cross(sheet: Sheet) -> None:
    """Two equal bars."""
    arm, length = sheet.uniform(0.2, 0.34), sheet.uniform(0.8, 0.95)
    bars = (sdf.box(sheet.x, sheet.y, (0.0, 0.0), half) for half in ((arm, length), (length, arm)))
    sheet.draw(np.minimum(*bars), sheet.colour())


def crescent(sheet: Sheet) -> None:
    """A disc bitten by another."""
    bite = sdf.circle(sheet.x, sheet.y, (sheet.uniform(0.3, 0.55), 0.0), sheet.uniform(0.65, 0.8))
    moon = np.maximum(sdf.circle(sheet.x, sheet.y, (0.0, 0.0), 0.9), -bite)
    sheet.draw(moon, sheet.colour(near=(0.95, 0.88, 0.45)))


def arrow(sheet: Sheet) -> None:
    """A shaft with a triangular head."""
    neck, pen = sheet.uniform(-0.05, 0.25), sheet.uniform(0.12, 0.26)
    shaft = sdf.box(sheet.x, sheet.y, (-0.35, 0.0), (0.6, pen))
    u, v = sheet.x - neck, np.abs(sheet.y)
    slope = 0.65 / (0.95 - neck)
    head = np.maximum(-u, (v - 0.65 + slope * u) / sdf.norm(1, slope))
    sheet.draw(np.minimum(shaft, head), sheet.colour())


def lightning(sheet: Sheet) -> None:
    """A jagged bolt."""
    upper = sdf.convex(sheet.x, sheet.y, [(-0.45, 0.05), (0.22, -0.08), (0.5, 0.95), (-0.1, 0.95)])
    lower = sdf.convex(sheet.x, sheet.y, [(-0.25, -1.0), (0.5, 0.2), (-0.18, 0.1)])
    sheet.draw(np.minimum(upper, lower), sheet.colour(near=(0.98, 0.85, 0.2)))


def letter(sheet: Sheet, name: str) -> None:
    """The strokes of a letter by one pen, upright or leaning."""
    x, pen = sheet.x - sheet.uniform(-0.05, 0.25) * sheet.y, sheet.uniform(0.09, 0.19)
    lines = [sdf.polyline(x, sheet.y, points, pen) for points in LETTERS[name]]
    sheet.draw(np.min(lines, axis=0), sheet.colour())


def _letter_s() -> list[sdf.Point]:
    t = np.linspace(0, 1, 9)
    top = [(float(0.48 * np.cos(a)), float(0.42 + 0.4 * np.sin(a))) for a in np.pi * (0.12 + 1.38 * t)]
    return [*top, *((-px, -py) for px, py in reversed(top))]


LETTERS: dict[str, list[list[sdf.Point]]] = {
    "A": [[(-0.6, -0.8), (0.0, 0.8), (0.6, -0.8)], [(-0.38, -0.25), (0.38, -0.25)]],
    "E": [[(0.5, 0.8), (-0.5, 0.8), (-0.5, -0.8), (0.5, -0.8)], [(-0.5, 0.0), (0.35, 0.0)]],
    "K": [[(-0.5, 0.8), (-0.5, -0.8)], [(0.5, 0.8), (-0.5, -0.1)], [(-0.15, 0.2), (0.55, -0.8)]],
    "S": [_letter_s()],
    "T": [[(-0.65, 0.8), (0.65, 0.8)], [(0.0, 0.8), (0.0, -0.8)]],
}
