"""A round patch that makes the model see one class wherever it lies."""

from __future__ import annotations

from convlens_client import rendering
from convlens_client.cli.common import table
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array

SHOWN = 4


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
