"""Signed distances to simple figures in the plane: negative inside, positive outside, y upwards.

Every function takes the coordinate fields ``x`` and ``y``, (batch, height, width), and gives a field of that
shape. Numbers may be Python floats, or one per image as (batch, 1, 1). Joining is ``np.minimum``, meeting is
``np.maximum``, and cutting b out of a is ``np.maximum(a, -b)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]  # float32 in fact: numpy's types lose it at a product with a float
Number = float | Field
Point = tuple[Number, Number]


def norm(x: Number, y: Number) -> Field:
    """The length of (x, y): np.hypot guards against overflow, at ten times the cost."""
    length: Field = np.sqrt(x * x + y * y, dtype=np.float32)
    return length


def circle(x: Field, y: Field, at: Point, radius: Number) -> Field:
    """A disc."""
    return norm(x - at[0], y - at[1]) - radius


def ellipse(x: Field, y: Field, at: Point, rx: Number, ry: Number) -> Field:
    """An ellipse by its scaled gradient: exact at the rim, which is all that a soft edge needs."""
    u, v = (x - at[0]) / rx, (y - at[1]) / ry
    level = norm(u, v)
    slope = norm(u / rx, v / ry) + np.float32(1e-3)
    rim: Field = level * (level - 1) / slope
    return rim


def box(x: Field, y: Field, at: Point, half: Point, round_by: Number = 0.0) -> Field:
    """A rectangle of half widths ``half`` whose corners are rounded within it."""
    dx = np.abs(x - at[0]) - half[0] + round_by
    dy = np.abs(y - at[1]) - half[1] + round_by
    outside = norm(np.maximum(dx, 0), np.maximum(dy, 0))
    distance: Field = outside + np.minimum(np.maximum(dx, dy), 0) - round_by
    return distance


def segment(x: Field, y: Field, a: Point, b: Point, radius: Number) -> Field:
    """A line from ``a`` to ``b`` drawn with a round pen of the given radius."""
    bx, by = b[0] - a[0], b[1] - a[1]
    px, py = x - a[0], y - a[1]
    along = np.clip((px * bx + py * by) / (bx * bx + by * by), 0, 1)
    return norm(px - along * bx, py - along * by) - radius


def polyline(x: Field, y: Field, points: Sequence[Point], radius: Number) -> Field:
    """The joined lines through all points, with a round pen."""
    lines = (segment(x, y, a, b, radius) for a, b in pairwise(points))
    return reduce(np.minimum, lines)


def arc(x: Field, y: Field, at: Point, radius: Number, *, turn: Number, span: Number, pen: Number) -> Field:
    """An arc about the direction ``turn``, ``span`` radians to either side of it, with round ends."""
    c, s = np.cos(turn), np.sin(turn)
    u = (x - at[0]) * c + (y - at[1]) * s
    v = np.abs((y - at[1]) * c - (x - at[0]) * s)
    within = np.arctan2(v, u) < span
    end = norm(u - radius * np.cos(span), v - radius * np.sin(span))
    distance: Field = np.where(within, np.abs(norm(u, v) - radius), end) - pen
    return distance


def convex(x: Field, y: Field, points: Sequence[tuple[float, float]]) -> Field:
    """A convex polygon, its corners counter-clockwise."""
    edges = []
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        length = math.hypot(bx - ax, by - ay)
        edges.append((x - ax) * ((by - ay) / length) - (y - ay) * ((bx - ax) / length))
    return reduce(np.maximum, edges)


def half_disc(x: Field, y: Field, at: Point, rx: Number, ry: Number) -> Field:
    """The upper half of an ellipse."""
    half: Field = np.maximum(ellipse(x, y, at, rx, ry), at[1] - y)
    return half


def turned(x: Field, y: Field, angle: Number, at: Point = (0.0, 0.0)) -> tuple[Field, Field]:
    """The coordinates in a frame that stands at ``at``, turned ``angle`` radians counter-clockwise."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    px, py = x - at[0], y - at[1]
    return px * c + py * s, py * c - px * s


def folded(x: Field, y: Field, times: Number) -> tuple[Field, Field]:
    """The coordinates in the nearest of ``times`` equal sectors, whose middle becomes the x axis."""
    sector = 2 * np.pi / times
    angle = np.arctan2(y, x)
    angle = angle - sector * np.round(angle / sector)
    r = norm(x, y)
    return r * np.cos(angle), r * np.sin(angle)
