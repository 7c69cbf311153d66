"""The maps of an attribution that was a job: the first one told and drawn."""

from __future__ import annotations

import numpy as np

from convlens_client import rendering
from convlens_client.cli.common import out
from convlens_client.cli.outcomes.artifact import names
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The map of the first image, without the photo, which is not at hand: heat, or signed around grey."""
    array = operation.artifact(names(operation)[0])[0]
    nothing = np.zeros((*array.shape[1:], 3), np.uint8)
    return array, rendering.glow(array, nothing) if len(array) == 1 else rendering.signed(array)


def tell(operation: Operation) -> None:
    """Prints the target of each attribution, and its value for each image."""
    for name, target in zip(names(operation), operation.report.targets, strict=True):
        classes = [f"class {index}: " for index in target.class_indices] or [""] * len(target.values)
        values = (f"{text}{value:.6g}" for text, value in zip(classes, target.values, strict=True))
        out.print(f"{name.partition('.')[2]}: {', '.join(values)}")
