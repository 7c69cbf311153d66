"""`convlens adversarial patch`: a round patch that makes the model see one class wherever it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convlens_client import rendering
from convlens_client.cli.adversarial.common import ATTACK, Target
from convlens_client.cli.common import Photos, photos_in, table
from convlens_client.cli.following import finish
from convlens_client.cli.options import Shared, command
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.requests import adversarial
from convlens_client.results import Array

SHOWN = 4


@command("seed", *ATTACK, request=adversarial.adversarial_patch, spelled={"size": "diameter"})
def patch(
    given: Shared,
    pictures: Photos,
    *,
    target: Target,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Photo or folder to judge by, repeat for several; default: every fifth photo."),
    ] = None,
    **parameters: Any,
) -> None:
    """Learn a patch from photos that makes the model see a class on others too (Brown et al. 2017)."""
    unseen = photos_in(held_out) if held_out else ()
    operation = given.client.adversarial_patch(
        photos_in(pictures), given.class_index(target), held_out=unseen, **parameters
    )
    finish(given, operation, f"{target}-patch.png", draw=draw, tell=tell)


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The patch on white; and on some of the photos that it has not seen."""
    mask = operation.artifact("mask")[0]
    disc = operation.artifact("disc")[0] * mask + 1 - mask
    pictures = operation.artifact("pictures")[:SHOWN]
    cells = [("patch", rendering.photo(disc)), *(("", rendering.photo(pixels)) for pixels in pictures)]
    return disc, rendering.sheet(cells)


def tell(operation: Operation) -> None:
    """Prints the share of placements that the model takes for the target."""
    report = operation.report
    rows = (
        ("with the patch", report.success),
        ("with a patch of noise", report.noise_success),
        ("without a patch", report.clean_success),
    )
    title = f" taken for the target, of {report.placements} placements"
    table(("held-out photos", title), ((name, f"{share:.1%}") for name, share in rows))
