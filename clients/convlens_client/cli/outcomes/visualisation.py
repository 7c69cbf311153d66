"""What was made for units and classes, each with its caption, beside what excites them in photos."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

import numpy as np

from convlens_client import rendering
from convlens_client.cli.common import out
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array

SIDE: Final = 192
"""Height of what stands beside photos; without them pictures keep their size."""
LINE: Final = 30
"""Characters of a line of a caption."""


def tell(operation: Operation) -> None:
    """Prints what each picture shows, and the image of the collection that excites it most."""
    report = operation.report
    if not report:
        return
    for caption in captions(operation):
        out.print(caption, soft_wrap=True)
    for number, found in enumerate(report.examples):
        if found.images:
            out.print(f"objective {number + 1}: at most {found.values[0]:.4g}, in {found.images[0][:16]}")


def captions(operation: Operation) -> list[str]:
    """A line for each objective: its name, its values, of which model, at which size."""
    shapes = [artifact.shape for artifact in operation.state.artifacts if artifact.name == "images"]
    size = "".join(f", {shape[3]} x {shape[2]} px" for shape in shapes)
    return [
        f"{item.name}: {_numbers(item.values)} ({operation.metadata.model}{size})"
        for item in operation.report.objectives
    ]


def draw(operation: Operation) -> tuple[Array, Picture]:
    """All pictures; several, or with photos beside them, on a sheet that says what each shows."""
    made = operation.result()
    images, report = made["images"], operation.report
    shown = report.objectives if report else ()
    if len(images) == 1 and "examples" not in made:
        return images, rendering.photo(images[0])
    if not shown and "examples" not in made:
        return images, _grid(images)
    size = f"{images.shape[3]} x {images.shape[2]} px"
    below = [
        f"{textwrap.fill(item.name, LINE)}\n{_numbers(item.values)}\n{operation.metadata.model}, {size}"
        for item in shown
    ]
    return images, sheet(
        below or _numbered(len(report.examples) if report else 1), images, made.get("examples")
    )


def sheet(names: Sequence[str], images: Array, examples: Array | None = None) -> Picture:
    """For each objective what was made for it, its name below, beside what excites it in photos."""
    count = len(names)
    rows = [[(name, _grid(made))] for name, made in zip(names, np.split(images, count), strict=True)]
    if examples is None:
        cells = [rendering.sheet(row, height=row[0][1].shape[0]) for row in rows]
    else:
        beside = [[("", _grid(photos))] for photos in np.split(examples, count)]
        cells = [rendering.sheet([*row, *photos], SIDE) for row, photos in zip(rows, beside, strict=True)]
    return rendering.grid(rendering.same_size(cells))


def _numbered(count: int) -> list[str]:
    """Captions for objectives of which nothing is known."""
    return [f"objective {number + 1}" for number in range(count)]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _grid(images: Array) -> Picture:
    return rendering.grid([rendering.photo(image) for image in images])
