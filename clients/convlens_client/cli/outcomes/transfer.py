"""How attacks on one model fare on the others."""

from __future__ import annotations

from convlens_client import charts
from convlens_client.cli.common import out, table
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array


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
