"""The photos of the demo, which scikit-image carries."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from convlens.errors import FailedPrecondition
from convlens_client.rendering import Picture

NAMES: Final = {
    "coins": "ancient coins",
    "hubble_deep_field": "Hubble deep field",
    "gravel": "gravel",
    "coffee": "coffee",
    "cat": "a cat",
}


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
        return np.asarray(middle.resize((side, side), Image.Resampling.BILINEAR))

    def fit(self, side: int) -> Picture:
        """The whole photo, scaled so that the longer side has `side` pixels."""
        image = Image.fromarray(self.pixels)
        image.thumbnail((side, side))
        return np.asarray(image)


def load() -> list[Photo]:
    """The photos; nothing is downloaded. Raises FailedPrecondition without scikit-image."""
    try:
        data = importlib.import_module("skimage.data")
    except ImportError as error:
        raise FailedPrecondition("the demo needs scikit-image: pip install 'convlens[dev]'") from error
    return [Photo(title, _rgb(getattr(data, name)())) for name, title in NAMES.items()]


def _rgb(pixels: Picture) -> Picture:
    return np.asarray(Image.fromarray(pixels).convert("RGB"))
