"""Living things, about one unit in radius, upright."""

from __future__ import annotations

import numpy as np

from convlens_models.patterns import sdf
from convlens_models.patterns.sheet import RGB, Colour, Sheet

GREEN: RGB = (0.25, 0.6, 0.2)
BROWN: RGB = (0.42, 0.26, 0.14)
SKIN: RGB = (0.92, 0.72, 0.55)
BLACK = np.zeros((1, 3, 1, 1), np.float32) + np.float32(0.05)
WHITE = np.zeros((1, 3, 1, 1), np.float32) + np.float32(0.95)


def _eyeball(sheet: Sheet, at: sdf.Point, radius: sdf.Number, iris: Colour) -> None:
    """White, iris, pupil and a highlight, looking somewhere."""
    sheet.fill(sdf.circle(sheet.x, sheet.y, at, radius), WHITE)
    sheet.fill(sdf.circle(sheet.x, sheet.y, at, radius * 0.68), iris)
    sheet.fill(sdf.circle(sheet.x, sheet.y, at, radius * 0.36), BLACK)


def leaf(sheet: Sheet) -> None:
    """A pointed leaf with a stalk, a midrib and side veins."""
    x, y, narrow = sheet.x, sheet.y, sheet.uniform(0.35, 0.6)
    lean = (1 + narrow**2) / (2 * narrow)
    body = sdf.norm(np.abs(x) + lean - narrow, y) - lean
    colour = sheet.colour(near=GREEN)
    sheet.fill(sdf.segment(x, y, (0.0, -0.9), (0.1, -1.25), 0.05), colour * np.float32(0.6))
    sheet.draw(body, colour)
    vein = colour * sheet.choice(0.5, 1.5)[:, None]
    sheet.fill(np.abs(x) - 0.03 + 0.03 * np.maximum(y, 0) + 9 * np.maximum(body, 0), np.clip(vein, 0, 1))
    ribs = np.abs((y - 0.6 * np.abs(x)) / 0.28 - np.round((y - 0.6 * np.abs(x)) / 0.28)) * 0.28 - 0.025
    sheet.fill(np.maximum(ribs, body + 0.06), np.clip(vein, 0, 1))


def flower(sheet: Sheet) -> None:
    """Five to eight petals about a heart, often on a stem."""
    petals, wide = sheet.choice(5, 6, 7, 8), sheet.uniform(0.8, 1.1)
    green = sheet.colour(near=GREEN)
    sheet.fill(sdf.segment(sheet.x, sheet.y, (0.0, 0.0), (0.2, -1.8), 0.06), green, sheet.chance(0.6))
    x, y = sdf.folded(sheet.x, sheet.y, petals)
    colour = sheet.colour()
    petal = sdf.ellipse(x, y, (0.55, 0.0), 0.42, wide * np.sin(np.pi / petals) * 0.55)
    sheet.draw(petal, colour)
    sheet.fill(np.maximum(petal, sdf.norm(x, y) - 0.55), np.clip(colour * np.float32(0.7), 0, 1))
    sheet.draw(sdf.circle(sheet.x, sheet.y, (0.0, 0.0), 0.27), sheet.colour(colour, near=(0.95, 0.8, 0.2)))


def eye(sheet: Sheet) -> None:
    """Lids, white, iris with rays, pupil, highlight."""
    x, y, open_ = sheet.x, sheet.y, sheet.uniform(0.42, 0.7)
    lean = (1 + open_**2) / (2 * open_)
    lids = sdf.norm(x, np.abs(y) + lean - open_) - lean
    skin = sheet.colour(near=SKIN)
    sheet.fill(lids - sheet.uniform(0.2, 0.6), skin, sheet.chance(0.6))
    lashes = np.maximum(lids - 0.1, -lids - 0.02)
    look, radius = sheet.uniform(-0.2, 0.2), open_ * sheet.uniform(0.75, 0.95)
    sheet.fill(lids, WHITE)
    iris = sheet.colour()
    inside = 9 * np.maximum(lids, 0)
    ball = sdf.norm(x - look, y)
    sheet.fill(ball - radius + inside, iris * np.float32(0.5))
    sheet.fill(ball - 0.88 * radius + inside, iris)
    rays = np.cos(np.arctan2(y, x - look) * 14) * 0.5 + 0.5
    sheet.blend(sheet.ink(ball - 0.8 * radius + inside) * rays * 0.4, iris * np.float32(0.4))
    sheet.fill(ball - radius * sheet.uniform(0.38, 0.52) + inside, BLACK)
    sheet.fill(sdf.circle(x, y, (look + 0.13, 0.15), 0.09), WHITE)
    sheet.fill(lashes, BLACK)


def face(sheet: Sheet) -> None:
    """A head from the front, often with hair: eyes, brows, nose, mouth."""
    x, y = sheet.x, sheet.y
    skin = sheet.colour(near=SKIN)
    hair = sheet.colour(skin, near=(0.25, 0.15, 0.08))
    has_hair = sheet.chance(0.6)
    sheet.fill(sdf.ellipse(x, y, (0.0, 0.18), 0.9, 0.9), hair, has_hair)
    head = sdf.ellipse(x, y, (0.0, -0.05), 0.76, 0.92)
    sheet.draw(head, skin)
    fringe = np.maximum(head, sheet.uniform(0.42, 0.6) + 0.25 * x * x - y)
    sheet.fill(fringe, hair, has_hair)
    iris, gap, size = sheet.colour(skin), sheet.uniform(0.28, 0.36), sheet.uniform(0.13, 0.18)
    dark = np.clip(skin * np.float32(0.35), 0, 1)
    for side in (-1, 1):
        _eyeball(sheet, (side * gap, 0.15), size, iris)
        sheet.fill(sdf.segment(x, y, (side * (gap - 0.16), 0.4), (side * (gap + 0.16), 0.42), 0.035), dark)
    sheet.fill(sdf.segment(x, y, (0.0, 0.05), (0.06, -0.2), 0.04), dark)
    lips = sheet.colour(skin, near=(0.8, 0.2, 0.25))
    smile = sdf.arc(
        x, y, (0.0, -0.15), 0.36, turn=-np.pi / 2, span=sheet.uniform(0.6, 1.0), pen=sheet.uniform(0.04, 0.08)
    )
    sheet.fill(smile, lips)


def cat(sheet: Sheet) -> None:
    """A cat's head from the front: pointed ears, slit pupils, whiskers."""
    x, y, fur = sheet.x, sheet.y, sheet.colour(near=(0.75, 0.5, 0.25))
    mirrored = np.abs(x)
    ear = sdf.convex(mirrored, y, [(0.12, 0.35), (0.72, 0.05), (0.72, 1.0)])
    sheet.draw(np.minimum(sdf.ellipse(x, y, (0.0, -0.1), 0.82, 0.7), ear), fur)
    inner = sdf.convex(mirrored, y, [(0.35, 0.42), (0.64, 0.3), (0.64, 0.8)])
    pink = sheet.colour(fur, near=(0.95, 0.65, 0.65))
    sheet.fill(inner, pink)
    iris = sheet.colour(fur, near=(0.6, 0.8, 0.25))
    sheet.fill(sdf.ellipse(mirrored, y, (0.34, 0.02), 0.19, 0.15), iris)
    sheet.fill(sdf.ellipse(mirrored, y, (0.34, 0.02), 0.06, 0.15), BLACK)
    nose = sdf.convex(x, y, [(0.0, -0.38), (0.12, -0.24), (-0.12, -0.24)])
    dark = sheet.colour(fur, near=(0.1, 0.08, 0.08))
    for low in (-0.28, -0.4):
        sheet.fill(sdf.segment(mirrored, y, (0.25, -0.34), (1.05, low * 2 + 0.5), 0.025), dark)
    sheet.fill(sdf.arc(mirrored, y, (0.12, -0.38), 0.12, turn=-np.pi / 2, span=1.4, pen=0.025), dark)
    sheet.fill(nose, pink)


def fish(sheet: Sheet) -> None:
    """A fish from the side, sometimes banded."""
    x, y, colour = sheet.x, sheet.y, sheet.colour()
    fins = sheet.colour(colour)
    tall = sheet.uniform(0.42, 0.6)
    tail = np.maximum(sdf.convex(x, y, [(0.45, 0.0), (1.0, -0.5), (1.0, 0.5)]), 0.16 - sdf.norm(x - 1.02, y))
    sheet.draw(tail, fins)
    sheet.draw(sdf.convex(x, y, [(-0.3, 0.3), (0.45, 0.25), (0.2, 0.8)]), fins)
    sheet.draw(sdf.convex(x, y, [(0.3, -0.25), (-0.1, -0.3), (0.25, -0.72)]), fins)
    body = sdf.ellipse(x, y, (-0.15, 0.0), 0.8, tall)
    sheet.draw(body, colour)
    bars = np.abs((x + 0.15) / 0.34 - np.round((x + 0.15) / 0.34)) * 0.34 - 0.08
    sheet.fill(np.maximum(np.maximum(bars, body), -0.45 - x), fins, sheet.chance(0.5))
    sheet.fill(sdf.arc(x, y, (-0.75, 0.0), 0.32, turn=0.0, span=0.9, pen=0.03), fins)
    _eyeball(sheet, (-0.62, 0.12), 0.13, fins)


def butterfly(sheet: Sheet) -> None:
    """Four spotted wings about a slim body."""
    x, y, colour = np.abs(sheet.x), sheet.y, sheet.colour()
    spots = sheet.colour(colour)
    upper = sdf.ellipse(*sdf.turned(x, y, 0.7, (0.52, 0.38)), (0.0, 0.0), 0.58, 0.36)
    lower = sdf.ellipse(*sdf.turned(x, y, -0.8, (0.4, -0.4)), (0.0, 0.0), 0.44, 0.29)
    wings = np.minimum(upper, lower)
    sheet.draw(wings, colour)
    sheet.fill(np.maximum(wings, -wings - 0.1), np.clip(colour * np.float32(0.3), 0, 1), sheet.chance(0.6))
    sheet.fill(sdf.circle(x, y, (0.62, 0.48), sheet.uniform(0.12, 0.2)), spots)
    sheet.fill(sdf.circle(x, y, (0.46, -0.46), sheet.uniform(0.08, 0.15)), spots)
    dark = sheet.colour(colour, near=(0.1, 0.07, 0.05))
    sheet.fill(sdf.segment(x, y, (0.0, 0.45), (0.28, 0.95), 0.03), dark)
    sheet.fill(sdf.ellipse(x, y, (0.0, 0.0), 0.1, 0.62), dark)


def tree(sheet: Sheet) -> None:
    """A round crown or a fir's three tiers, on a trunk."""
    x, y, green = sheet.x, sheet.y, sheet.colour(near=GREEN)
    trunk = sdf.box(x, y, (0.0, -0.65), (sheet.uniform(0.1, 0.18) + 0.05 * np.maximum(-y - 0.7, 0), 0.45))
    sheet.draw(trunk, sheet.colour(green, near=BROWN))
    blobs = [((-0.38, 0.0), 0.42), ((0.38, 0.02), 0.42), ((0.0, 0.42), 0.5), ((0.0, 0.1), 0.4)]
    crown = np.min([sdf.circle(x, y, at, r) for at, r in blobs], axis=0)
    crown += 0.05 * np.sin(9 * x + sheet.uniform(0, 6)) * np.sin(9 * y)
    tiers = [[(-w, y0), (w, y0), (0.0, y0 + 0.75)] for w, y0 in ((0.75, -0.45), (0.6, -0.05), (0.42, 0.35))]
    fir = np.min([sdf.convex(x, y, tier) for tier in tiers], axis=0)
    sheet.draw(np.where(sheet.chance(0.4) > 0, fir, crown), green)


def mushroom(sheet: Sheet) -> None:
    """A domed cap, mostly spotted, on a stalk."""
    x, y, cap_colour = sheet.x, sheet.y, sheet.colour(near=(0.82, 0.15, 0.1))
    stalk = sheet.colour(cap_colour, near=(0.93, 0.88, 0.76))
    wide = sheet.uniform(0.2, 0.3)
    sheet.draw(sdf.box(x, y, (0.0, -0.45), (wide + 0.1 * np.maximum(-0.3 - y, 0), 0.5), 0.1), stalk)
    cap = sdf.half_disc(x, y, (0.0, -0.02), 0.95, sheet.uniform(0.7, 0.95))
    sheet.draw(cap, cap_colour)
    spotted = sheet.chance(0.7)
    for at, radius in (((0.0, 0.45), 0.17), ((-0.5, 0.25), 0.13), ((0.48, 0.22), 0.14), ((0.18, 0.14), 0.09)):
        sheet.fill(np.maximum(sdf.circle(x, y, at, radius), cap + 0.04), stalk, spotted)
