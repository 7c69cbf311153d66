"""The photos of the demo, which lie beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from convlens_client.rendering import Picture

FOLDER: Final = Path(__file__).parent / "pictures"
TITLES: Final = {"cat": "a cat", "coffee": "a cup of coffee", "rocket": "a rocket"}
"""Free of copyright: a cat by Stefan van der Walt and coffee by Rachel Michetti (CC0), a rocket by SpaceX
(public domain); smaller than scikit-image has them."""


@dataclass(frozen=True)
class Photo:
    """A photo, (H, W, 3)."""

    title: str
    pixels: Picture

    def square(self, side: int) -> Picture:
        """The middle of the photo, scaled to a square of `side` pixels."""
        height, width = self.pixels.shape[:2]
        edge = min(height, width)
        left, top = (width - edge) // 2, (height - edge) // 2
        middle = Image.fromarray(self.pixels).crop((left, top, left + edge, top + edge))
        return np.asarray(middle.resize((side, side), Image.Resampling.BICUBIC))

    def fit(self, side: int) -> Picture:
        """The whole photo, scaled so that the longer side has `side` pixels."""
        image = Image.fromarray(self.pixels)
        image.thumbnail((side, side))
        return np.asarray(image)


def load() -> list[Photo]:
    """The photos that come with the demo."""
    return [Photo(title, _rgb(FOLDER / f"{name}.jpg")) for name, title in TITLES.items()]


def _rgb(path: Path) -> Picture:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
