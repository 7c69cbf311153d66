"""What was made for units and classes, beside what excites them in photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from convlens_client import rendering
from convlens_client.cli.common import out
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array

SIDE: Final = 192
"""Height of the pictures of a sheet."""


def tell(operation: Operation) -> None:
    """Prints the image of the collection that excites each objective most, where there was one."""
    for number, found in enumerate(operation.report.examples if operation.report else ()):
        if found.images:
            out.print(f"objective {number + 1}: at most {found.values[0]:.4g}, in {found.images[0][:16]}")


def draw(operation: Operation, names: Sequence[str] = ()) -> tuple[Array, Picture]:
    """All pictures; where there was a collection, each objective under its name, or its number."""
    made = operation.result()
    images = made["images"]
    if "examples" not in made:
        return images, _grid(images)
    count = len(operation.report.examples) if operation.report else len(names)
    names = names or [f"objective {number + 1}" for number in range(count)]
    return images, sheet(names, images, made["examples"])


def sheet(names: Sequence[str], images: Array, examples: Array) -> Picture:
    """For each objective what was made for it, its name below, beside what excites it in photos."""
    cells = [
        rendering.sheet([(name, _grid(made)), ("", _grid(photos))], SIDE)
        for name, made, photos in zip(
            names, np.split(images, len(names)), np.split(examples, len(names)), strict=True
        )
    ]
    return rendering.grid(rendering.same_size(cells))


def _grid(images: Array) -> Picture:
    return rendering.grid([rendering.photo(image) for image in images])
