"""`convlens adversarial transfer`: how attacks on one model fare on the others."""

from __future__ import annotations

from typing import Annotated

import typer

from convlens_client import charts
from convlens_client.cli.common import (
    Json,
    Model,
    NoWait,
    Out,
    Resize,
    Server,
    Tls,
    connect,
    eps,
    out,
    photos,
    resize,
    table,
)
from convlens_client.cli.following import finish
from convlens_client.cli.robustness import Labels, LabelsFromNames, Photos, classes
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array


def transfer(
    pictures: Photos,
    *,
    to: Annotated[
        list[str] | None,
        typer.Option(help="Other model, repeat for several; default: all with the same classes."),
    ] = None,
    labels: Labels = None,
    labels_from_names: LabelsFromNames = False,
    eps: Annotated[
        float | None, typer.Option(parser=eps, help="Largest change of a pixel value; default 8/255.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps; default 20.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; default 0.")] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Attack each model, and ask all of them: which attacks transfer, beside noise of the same length."""
    paths = photos(pictures)
    with connect(server, tls) as client:
        operation = client.transfer_matrix(
            paths,
            classes(paths, labels, labels_from_names, client.get_model(model)),
            models=to or (),
            epsilon=eps,
            steps=steps,
            seed=seed,
            model=model,
            resize=resize(size),
        )
        finish(operation, file, "transfer.png", json=json, no_wait=no_wait, draw=draw, tell=tell)


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The matrix; and as a picture, beside that of noise."""
    found, noise = operation.artifact("matrix"), operation.artifact("noise")
    tables = {"wrong under attack": found, "wrong under noise of the same length": noise}
    return found, charts.matrix(tables, operation.report.models, "attack on", "asked")


def tell(operation: Operation) -> None:
    """Prints a row for each model attacked: the share made wrong, and in brackets by noise."""
    report = operation.report
    found, noise = operation.artifact("matrix"), operation.artifact("noise")
    rows = (
        (name, *(f"{share:.1%} ({other:.1%})" for share, other in zip(row, beside, strict=True)))
        for name, row, beside in zip(report.models, found, noise, strict=True)
    )
    table(("attack on", *(f" {name}" for name in report.models)), rows)
    right = ", ".join(
        f"{name} {share:.1%}" for name, share in zip(report.models, report.accuracies, strict=True)
    )
    out.print(f"right without an attack: {right}")
