"""`convlens adversarial expectation`: a change that keeps its target however the picture is seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from convlens_client import charts, rendering
from convlens_client.cli.adversarial.common import ATTACK, Target, certificates
from convlens_client.cli.common import Image
from convlens_client.cli.following import finish
from convlens_client.cli.options import Shared, command
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.requests import adversarial
from convlens_client.results import Array


@command("seed", *ATTACK, request=adversarial.expectation_attack)
def expectation(given: Shared, image: Image, *, target: Target, **parameters: Any) -> None:
    """Make the model see another class however a picture is turned and lit (Athalye et al. 2018)."""
    operation = given.client.expectation_attack(image, given.class_index(target), **parameters)
    finish(given, operation, f"{image.stem}-{target}.png", draw=draw, tell=certificates)


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
