"""The classes of the embedded model `patterns`, and pictures of them, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convlens_models.patterns import creatures, scene, shapes, textures, things
from convlens_models.patterns.scene import Pose
from convlens_models.patterns.sheet import Sheet

SIZE = 96
LITTER_ON_TOP = 0.15  # how often something lies over the drawing


class Motif(NamedTuple):
    """One class: what is drawn, how it may lie, and whether it fills the sheet or stands on a background."""

    draw: Callable[[Sheet], None]
    pose: Pose
    fills: bool = False


def _texture(draw: Callable[[Sheet], None], turn: float = 0, spin: float = 180, low: float = 2.0) -> Motif:
    """Patterns show ``low`` to 5 periods in half a side."""
    return Motif(draw, Pose(turn, spin, zoom=(low, 5.0), shift=1.0, mirror=False, bend=0.05), fills=True)


def _centred(draw: Callable[[Sheet], None], low: float = 2.5, high: float = 6.0) -> Motif:
    """Patterns about a point, which stays in view."""
    return Motif(draw, Pose(zoom=(low, high), shift=0.4, bend=0.05), fills=True)


FREE, UPRIGHT, LETTER = Pose(), Pose(spin=25), Pose(spin=18, mirror=False)

MOTIFS: dict[str, Motif] = {
    "horizontal stripes": _texture(textures.stripes, turn=90, spin=12),
    "vertical stripes": _texture(textures.stripes, turn=0, spin=12),
    "rising stripes": _texture(textures.stripes, turn=-45, spin=12),
    "falling stripes": _texture(textures.stripes, turn=45, spin=12),
    "waves": _texture(textures.waves),
    "zigzag": _texture(textures.zigzag),
    "dots": _texture(textures.dots),
    "checks": _texture(textures.checks),
    "grid": _texture(textures.grid),
    "bricks": _texture(textures.bricks, spin=25, low=1.6),
    "scales": _texture(textures.scales, spin=40, low=1.6),
    "hexagons": _texture(textures.hexagons, low=1.7),
    "plaid": _texture(textures.plaid, low=1.7),
    "cobbles": _texture(textures.cobbles, low=1.7),
    "wood": _texture(textures.wood, spin=30),
    "leopard": _texture(textures.leopard, low=1.7),
    "clouds": _texture(textures.clouds),
    "rings": _centred(textures.rings),
    "spiral": _centred(textures.spiral),
    "sunburst": _centred(textures.sunburst, low=1.0, high=2.0),
    "star": Motif(shapes.star, FREE),
    "heart": Motif(shapes.heart, UPRIGHT),
    "triangle": Motif(shapes.triangle, FREE),
    "square": Motif(shapes.square, FREE),
    "disc": Motif(shapes.disc, FREE),
    "cross": Motif(shapes.cross, FREE),
    "crescent": Motif(shapes.crescent, FREE),
    "arrow": Motif(shapes.arrow, FREE),
    "lightning": Motif(shapes.lightning, UPRIGHT),
    **{f"letter {name}": Motif(partial(shapes.letter, name=name), LETTER) for name in shapes.LETTERS},
    "leaf": Motif(creatures.leaf, FREE),
    "flower": Motif(creatures.flower, UPRIGHT),
    "eye": Motif(creatures.eye, UPRIGHT),
    "face": Motif(creatures.face, UPRIGHT),
    "cat": Motif(creatures.cat, UPRIGHT),
    "fish": Motif(creatures.fish, UPRIGHT),
    "butterfly": Motif(creatures.butterfly, Pose(spin=45)),
    "tree": Motif(creatures.tree, UPRIGHT),
    "mushroom": Motif(creatures.mushroom, UPRIGHT),
    "house": Motif(things.house, UPRIGHT),
    "cup": Motif(things.cup, UPRIGHT),
    "key": Motif(things.key, FREE),
    "car": Motif(things.car, UPRIGHT),
    "umbrella": Motif(things.umbrella, UPRIGHT),
    "boat": Motif(things.boat, UPRIGHT),
    "clock": Motif(things.clock, FREE),
    "balloon": Motif(things.balloon, UPRIGHT),
    "dice": Motif(things.dice, FREE),
    "traffic light": Motif(things.traffic_light, UPRIGHT),
}

LABELS: tuple[str, ...] = tuple(MOTIFS)


def draw(label: str, count: int, seed: Iterable[int], size: int = SIZE) -> NDArray[np.float32]:
    """``count`` pictures of one class, float32 RGB in [0,1], (count, 3, size, size).

    The same label, count, seed and size give the same pictures.
    """
    motif = MOTIFS[label]
    rng = np.random.default_rng([*seed, LABELS.index(label)])
    sheet = scene.lay_out(rng, count, size, motif.pose)
    if not motif.fills:
        scene.surroundings(sheet)
    motif.draw(sheet)
    scene.litter(sheet, sheet.colour(), LITTER_ON_TOP)
    return scene.photograph(sheet)
