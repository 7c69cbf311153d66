"""A batch of sheets of paper, and the brush, the paints and the dice to draw on them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlens_models.patterns.sdf import Field, Number

Colour = NDArray[np.floating[Any]]  # (batch, 3, 1, 1), or (batch, 3, height, width)
RGB = tuple[float, float, float]

CANDIDATES = 8
DISTINCT = 0.55  # Euclidean distance in RGB from which two colours count as well apart


class Sheet:
    """``image`` is float32 (batch, 3, height, width); ``x`` and ``y`` are the drawing's own coordinates.

    ``px`` is how far neighbouring pixels lie apart in those coordinates, (batch, 1, 1): edges are that soft.
    """

    def __init__(self, rng: np.random.Generator, x: Field, y: Field, px: Field) -> None:
        self.rng, self.x, self.y, self.px = rng, x, y, px
        self.count = len(x)
        self.image = np.zeros((self.count, 3, *x.shape[1:]), np.float32)
        self.paper: Colour = self.colour()
        self.image += self.paper

    def uniform(self, low: float, high: float) -> Field:
        """One number an image, (batch, 1, 1)."""
        return self.rng.uniform(low, high, (self.count, 1, 1)).astype(np.float32)

    def chance(self, probability: float) -> Field:
        """One coin an image: 1 with the given probability, else 0."""
        return (self.rng.random((self.count, 1, 1)) < probability).astype(np.float32)

    def choice(self, *values: float) -> Field:
        """One of the values an image."""
        return self.rng.choice(np.asarray(values, np.float32), (self.count, 1, 1))

    def colour(self, *others: Colour, near: RGB | None = None) -> Colour:
        """A random colour an image, well apart from the paper and ``others``; often close to ``near``."""
        candidates = _random_colours(self.rng, (self.count, CANDIDATES))
        if near is not None:
            likely = np.asarray(near, np.float32) + self.rng.normal(0, 0.12, candidates.shape).astype(
                np.float32
            )
            typical = self.rng.random((self.count, 1, 1)) < 0.6
            candidates = np.where(typical, np.clip(likely, 0, 1), candidates)
        avoid = [c[:, None, :, 0, 0] for c in (*others, *([self.paper] if hasattr(self, "paper") else []))]
        if not avoid:
            return candidates[:, 0, :, None, None]
        apart = np.min([np.linalg.norm(candidates - c, axis=2) for c in avoid], axis=0)
        score = np.minimum(apart, DISTINCT) + 1e-4 * self.rng.random(apart.shape)
        return candidates[np.arange(self.count), score.argmax(1), :, None, None]

    def ink(self, distance: Field, soft: Number = 1.0) -> Field:
        """How much of a pixel lies inside, by a smoothstep over ``soft`` pixels to either side of the rim."""
        t = np.clip(0.5 - distance / (2 * soft * self.px), 0, 1)
        cover: Field = t * t * (3 - 2 * t)
        return cover

    def blend(self, cover: Field, colour: Colour) -> None:
        """Lay a colour over the sheet, opaque where ``cover`` is 1 and absent where it is 0."""
        self.image += cover[:, None] * (colour - self.image)

    def fill(self, distance: Field, colour: Colour, strength: Number = 1.0) -> None:
        """Lay a colour inside a figure, given by its signed distance."""
        self.blend(self.ink(distance) * strength, colour)

    def draw(self, distance: Field, colour: Colour) -> None:
        """Fill a figure as a person would: sometimes outlined, and shaded towards the rim."""
        outline = self.chance(0.35) * self.uniform(1.0, 2.5) * self.px
        self.fill(distance - outline, colour * np.float32(0.25))
        rim = np.clip(1 + distance / (14 * self.px), 0, 1) * self.uniform(-0.3, 0.35)
        self.fill(distance, np.clip(colour * (1 - rim[:, None]), 0, 1))


def _random_colours(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Hue even, saturation mostly high, any brightness: (…, 3)."""
    hue = rng.random((*shape, 1))
    saturation = rng.random((*shape, 1)) ** 0.6
    value = rng.uniform(0.08, 1, (*shape, 1)) ** 0.8
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
    rgb = value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    colours: NDArray[np.float32] = rgb.astype(np.float32)
    return colours
