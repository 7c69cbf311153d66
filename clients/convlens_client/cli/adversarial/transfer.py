"""`convlens adversarial transfer`: how attacks on one model fare on the others."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from convlens_client import charts
from convlens_client.cli.adversarial.common import ATTACK
from convlens_client.cli.common import Photos, out, photos_in, table
from convlens_client.cli.following import finish
from convlens_client.cli.labels import Labelled
from convlens_client.cli.options import command
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.requests import adversarial
from convlens_client.results import Array


@command("seed", *ATTACK, request=adversarial.transfer_matrix)
def transfer(
    given: Labelled,
    pictures: Photos,
    *,
    to: Annotated[
        list[str] | None,
        typer.Option(help="Other model, repeat for several; default: all with the same classes."),
    ] = None,
    **parameters: Any,
) -> None:
    """Attack each model, and ask all of them: which attacks transfer, beside noise of the same length."""
    paths = photos_in(pictures)
    operation = given.client.transfer_matrix(paths, given.classes(paths), models=to or (), **parameters)
    finish(given, operation, "transfer.png", draw=draw, tell=tell)


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The matrix; and as a picture, beside that of noise."""
    matrix, noise = operation.artifact("matrix"), operation.artifact("noise")
    tables = {"wrong under attack": matrix, "wrong under noise of the same length": noise}
    return matrix, charts.matrix(tables, operation.report.models, "attack on", "asked")


def tell(operation: Operation) -> None:
    """Prints a row for each model attacked: the share made wrong, and in brackets by noise."""
    models, accuracies = operation.report.models, operation.report.accuracies
    matrix, noise = operation.artifact("matrix"), operation.artifact("noise")
    rows = (
        (name, *(f"{share:.1%} ({other:.1%})" for share, other in zip(row, beside, strict=True)))
        for name, row, beside in zip(models, matrix, noise, strict=True)
    )
    table(("attack on", *(f" {name}" for name in models)), rows)
    right = ", ".join(f"{name} {share:.1%}" for name, share in zip(models, accuracies, strict=True))
    out.print(f"right without an attack: {right}")
