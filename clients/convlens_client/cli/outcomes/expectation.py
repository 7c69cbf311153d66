"""A change that keeps its target however the picture is seen."""

from __future__ import annotations

import numpy as np

from convlens_client import charts, rendering
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The first adversarial image; the three pictures, and how probable the target is at each angle."""
    pictures = {name: operation.artifact(name) for name in ("original", "naive", "adversarial")}
    cells = [(name, rendering.photo(images[0])) for name, images in pictures.items()]
    return pictures["adversarial"][0], rendering.sheet([*cells, ("", curve(operation))])


def curve(operation: Operation) -> Picture:
    """The probability of the target over the angle, the median of all images: naive and adversarial."""
    angles = operation.artifact("angles")
    _, naive, adversarial = np.median(operation.artifact("probabilities"), axis=1)
    series = {"naive": naive.tolist(), "over transforms": adversarial.tolist()}
    return charts.curves(series, [f"{angle:.3g}" for angle in angles], "degrees; probability of the target")
