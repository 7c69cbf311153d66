"""Things that people make, about one unit in radius, upright."""

from __future__ import annotations

import numpy as np

from convlens_models.patterns import sdf
from convlens_models.patterns.creatures import BLACK, BROWN, WHITE
from convlens_models.patterns.sheet import Sheet


def house(sheet: Sheet) -> None:
    """Walls, gable, door, two windows, perhaps a chimney."""
    x, y, wall = sheet.x, sheet.y, sheet.colour(near=(0.9, 0.82, 0.65))
    roof, wood = sheet.colour(wall, near=(0.7, 0.2, 0.15)), sheet.colour(wall, near=BROWN)
    glass, eaves = sheet.colour(wall, near=(0.55, 0.78, 0.92)), sheet.uniform(0.0, 0.2)
    sheet.fill(sdf.box(x, y, (0.45, 0.65), (0.1, 0.3)), wood, sheet.chance(0.6))
    sheet.draw(sdf.box(x, y, (0.0, -0.45), (0.72, 0.5)), wall)
    u, slope = np.abs(x), 0.85 / 0.95
    gable = np.maximum((y - 0.95 + slope * u) / sdf.norm(1, slope), eaves * 0.5 - y)
    sheet.draw(gable, roof)
    door = sheet.choice(-0.35, 0.0, 0.35)
    sheet.draw(sdf.box(x, y, (door, -0.68), (0.15, 0.28)), wood)
    for at in (-0.42, 0.42):
        window = sdf.box(x, y, (at, -0.22), (0.15, 0.15))
        sheet.draw(window, glass)
        bars = np.minimum(np.abs(x - at), np.abs(y + 0.22)) - 0.02
        sheet.fill(np.maximum(bars, window), wood)


def cup(sheet: Sheet) -> None:
    """A mug with a handle, filled, sometimes steaming."""
    x, y, colour = sheet.x, sheet.y, sheet.colour()
    taper, drink = sheet.uniform(0.0, 0.25), sheet.colour(colour, near=(0.3, 0.17, 0.08))
    handle = np.abs(sdf.ellipse(x, y, (0.58, -0.15), 0.34, 0.33)) - sheet.uniform(0.06, 0.1)
    sheet.draw(handle, colour)
    half = 0.6 + taper * (y - 0.4) * 0.6
    sheet.draw(np.maximum(np.abs(x) - half, np.maximum(y - 0.4, -0.8 - y)), colour)
    sheet.draw(sdf.ellipse(x, y, (0.0, 0.4), 0.6, 0.17), np.clip(colour * np.float32(0.75), 0, 1))
    sheet.fill(sdf.ellipse(x, y, (0.0, 0.38), 0.5, 0.11), drink)
    band = np.maximum(np.abs(y + 0.2 + 0.12 * x * x) - 0.12, np.abs(x) - half)
    sheet.fill(band, sheet.colour(colour), sheet.chance(0.4))
    steam = np.abs(np.abs(x) - 0.18 - 0.07 * np.sin(9 * y)) - 0.03
    sheet.fill(np.maximum(steam, np.abs(y - 0.82) - 0.22), WHITE, sheet.chance(0.4) * 0.7)


def key(sheet: Sheet) -> None:
    """A round or clover bow, a shaft, three teeth."""
    x, y, pen = sheet.x, sheet.y, sheet.uniform(0.07, 0.11)
    bow = np.abs(sdf.circle(x, y, (-0.62, 0.0), 0.3)) - pen
    clover = np.min(
        [np.abs(sdf.circle(x, y, at, 0.19)) for at in ((-0.8, 0), (-0.52, 0.22), (-0.52, -0.22))], axis=0
    )
    shaft = sdf.box(x, y, (0.32, 0.0), (0.65, pen))
    teeth = [sdf.box(x, y, (at, -0.2), (0.07, sheet.uniform(0.14, 0.24))) for at in (0.55, 0.74, 0.92)]
    bit = np.min(teeth, axis=0)
    whole = np.minimum(np.where(sheet.chance(0.3) > 0, clover - pen, bow), np.minimum(shaft, bit))
    sheet.draw(whole, sheet.colour(near=(0.85, 0.68, 0.25)))


def car(sheet: Sheet) -> None:
    """A saloon car from the side."""
    x, y, paint = sheet.x, sheet.y, sheet.colour()
    roof = sheet.uniform(0.42, 0.58)
    cabin = np.maximum(np.abs(x + 0.05) - 0.62 + 0.5 * np.maximum(y, 0), np.maximum(y - roof, -0.1 - y))
    body = sdf.box(x, y, (0.0, -0.18), (1.0, 0.28), 0.13)
    sheet.draw(np.minimum(cabin, body), paint)
    glass = sheet.colour(paint, near=(0.7, 0.85, 0.95))
    panes = np.maximum(cabin + 0.09, np.maximum(0.03 - np.abs(x + 0.05), 0.06 - y))
    sheet.fill(panes, glass)
    tyre, hub = sheet.colour(paint, near=(0.07, 0.07, 0.08)), sheet.colour(near=(0.8, 0.8, 0.82))
    for at in (-0.55, 0.55):
        wheel = sdf.circle(x, y, (at, -0.45), 0.26)
        sheet.fill(wheel, tyre)
        sheet.fill(wheel + 0.14, hub)
    sheet.fill(sdf.circle(x, y, (-0.9, -0.13), 0.07), sheet.colour(paint, near=(1.0, 0.9, 0.5)))


def umbrella(sheet: Sheet) -> None:
    """An open umbrella with a hooked stick, plain or in gores."""
    x, y, colour = sheet.x, sheet.y, sheet.colour()
    other, wood = sheet.colour(colour), sheet.colour(near=BROWN)
    hook = sdf.arc(x, y, (0.17, -0.72), 0.17, turn=-np.pi / 2, span=np.pi / 2, pen=0.05)
    sheet.fill(np.minimum(sdf.segment(x, y, (0.0, 0.95), (0.0, -0.72), 0.045), hook), wood)
    scallops = np.min(
        [sdf.ellipse(x, y, (at, 0.05), 0.24, 0.14) for at in (-0.71, -0.24, 0.24, 0.71)], axis=0
    )
    canopy = np.maximum(sdf.half_disc(x, y, (0.0, 0.05), 0.95, sheet.uniform(0.7, 0.85)), -scallops)
    sheet.draw(canopy, colour)
    bend = x / np.sqrt(np.clip(1 - ((y - 0.05) / 0.82) ** 2, 0.02, 1))
    gores = (np.round(bend / 0.475 + 0.5) % 2) - 0.5
    sheet.fill(np.maximum(canopy, 0.3 * gores), other, sheet.chance(0.6))


def boat(sheet: Sheet) -> None:
    """A sailing boat with two sails, often on the sea."""
    x, y, hull = sheet.x, sheet.y, sheet.colour(near=(0.55, 0.3, 0.15))
    sail = sheet.colour(hull, near=(0.96, 0.95, 0.9))
    jib = np.where(sheet.chance(0.5)[:, None] > 0, sail, sheet.colour(sail))
    sea = sheet.colour(hull, near=(0.15, 0.4, 0.7))
    waves = y + 0.72 + 0.06 * np.sin(7 * x + sheet.uniform(0, 6))
    sheet.fill(sdf.segment(x, y, (0.0, -0.4), (0.0, 0.95), 0.04), hull * np.float32(0.6))
    sheet.draw(sdf.convex(x, y, [(0.07, -0.3), (0.8, -0.3), (0.07, 0.9)]), sail)
    sheet.draw(sdf.convex(x, y, [(-0.6, -0.3), (-0.07, -0.3), (-0.07, 0.7)]), jib)
    sheet.draw(sdf.convex(x, y, [(-0.6, -0.85), (0.6, -0.85), (0.95, -0.4), (-0.9, -0.4)]), hull)
    sheet.fill(waves, sea, sheet.chance(0.6))


def clock(sheet: Sheet) -> None:
    """A dial with twelve marks and two hands."""
    x, y, rim = sheet.x, sheet.y, sheet.colour()
    dial = sheet.colour(rim, near=(0.95, 0.95, 0.9))
    sheet.draw(sdf.circle(x, y, (0.0, 0.0), 0.95), rim)
    sheet.fill(sdf.circle(x, y, (0.0, 0.0), sheet.uniform(0.72, 0.84)), dial)
    marks = sheet.colour(dial, near=(0.08, 0.08, 0.1))
    u, v = sdf.folded(x, y, 12)
    sheet.fill(sdf.box(u, v, (0.62, 0.0), (0.08, 0.028)), marks)
    for length, pen in ((0.34, 0.055), (0.52, 0.04)):
        angle = sheet.uniform(0, 6.3)
        sheet.fill(
            sdf.segment(x, y, (0.0, 0.0), (length * np.cos(angle), length * np.sin(angle)), pen), marks
        )


def balloon(sheet: Sheet) -> None:
    """A toy balloon on a string."""
    x, y, colour = sheet.x, sheet.y, sheet.colour()
    string = np.abs(x - 0.08 * np.sin(7 * y)) - 0.025
    sheet.fill(np.maximum(string, np.maximum(y + 0.5, -1.3 - y)), sheet.colour(near=(0.1, 0.1, 0.1)))
    width = 0.62 * (1 + 0.22 * np.clip(y, -0.7, 1))
    sheet.draw(sdf.convex(x, y, [(-0.13, -0.68), (0.13, -0.68), (0.0, -0.42)]), colour)
    sheet.draw(sdf.ellipse(x, y, (0.0, 0.25), width, 0.75), colour)
    shine = sdf.ellipse(*sdf.turned(x, y, -0.5, (-0.26, 0.5)), (0.0, 0.0), 0.08, 0.2)
    sheet.fill(shine, WHITE, 0.8)


def dice(sheet: Sheet) -> None:
    """One face of a die, two to six pips."""
    x, y, colour = sheet.x, sheet.y, sheet.colour(near=(0.95, 0.94, 0.9))
    pips, wide = sheet.colour(colour, near=(0.05, 0.05, 0.05)), sheet.uniform(0.36, 0.44)
    sheet.draw(sdf.box(x, y, (0.0, 0.0), (0.8, 0.8), 0.2), colour)
    value = np.round(sheet.uniform(2, 6.49))
    spots = {(0, 0): (3, 5), (-1, 1): (2, 3, 4, 5, 6), (1, -1): (2, 3, 4, 5, 6)}
    spots |= {(1, 1): (4, 5, 6), (-1, -1): (4, 5, 6), (-1, 0): (6,), (1, 0): (6,)}
    for (i, j), values in spots.items():
        shown = np.isin(value, values).astype(np.float32)
        sheet.fill(sdf.circle(x, y, (i * wide, j * wide), 0.15), pips, shown)


def traffic_light(sheet: Sheet) -> None:
    """Three lamps on a post, one of them lit."""
    x, y, case = sheet.x, sheet.y, sheet.colour(near=(0.12, 0.13, 0.14))
    sheet.fill(sdf.box(x, y, (0.0, -1.2), (0.07, 0.6)), BLACK)
    sheet.draw(sdf.box(x, y, (0.0, 0.15), (0.38, 0.85), 0.1), case)
    lit = sheet.choice(0, 1, 2)
    lamps = (((0.9, 0.1, 0.1), 0.7), ((0.98, 0.8, 0.1), 0.15), ((0.1, 0.8, 0.3), -0.4))
    for index, (rgb, at) in enumerate(lamps):
        lamp = np.asarray(rgb, np.float32)[None, :, None, None] * np.where(lit == index, 1.0, 0.4)[
            :, None
        ].astype(np.float32)
        sheet.fill(sdf.circle(x, y, (0.0, at), 0.23), lamp)
