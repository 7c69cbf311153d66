"""`convlens attack`: adversarial images, with their certificate."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from convlens_client import rendering
from convlens_client.cli.common import (
    Image,
    Json,
    Model,
    Out,
    Resize,
    Server,
    Tls,
    connect,
    emit,
    number,
    out,
    percent,
    resize,
    write,
)
from convlens_client.rendering import Picture
from convlens_client.results import AttackOutcome, Certificate


class Method(StrEnum):
    """Attacks."""

    FGSM = "fgsm"


class Show(StrEnum):
    """What the picture shows."""

    TRIPLE = "triple"
    ADVERSARIAL = "adversarial"


def attack(
    image: Image,
    *,
    method: Annotated[Method, typer.Option(help="Technique.")] = Method.FGSM,
    eps: Annotated[str, typer.Option(help="Largest change of a pixel in [0, 1].")] = "8/255",
    target: Annotated[
        str | None, typer.Option(help="Class to be taken for, by index or label; default: any other class.")
    ] = None,
    show: Annotated[
        Show, typer.Option(help="Picture: photo, sign and result side by side, or the result alone.")
    ] = Show.TRIPLE,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Change an image a little, so that the model takes it for something else."""
    with connect(server, tls) as client:
        index = client.get_model(model).class_index(target) if target is not None else None
        outcome = client.attack(
            image, epsilon=number(eps, "eps"), target=index, model=model, resize=resize(size)
        )
    certificate = outcome.certificates[0]
    if json:
        emit({"method": method.value, **{"certificate": certificate}})
    else:
        _print(certificate)
    picture = triple(outcome) if show is Show.TRIPLE else rendering.photo(outcome.adversarial[0])
    write(file, outcome.adversarial[0], picture)


def triple(outcome: AttackOutcome, number: int = 0) -> Picture:
    """Photo, sign of the gradient and adversarial image side by side, with what the model says."""
    found = outcome.certificates[number]
    return rendering.sheet(
        [
            (percent(found.before), rendering.photo(outcome.original[number])),
            (f"sign of the gradient\nchange: at most {found.linf * 255:.3g}/255",
             rendering.signs(outcome.gradient_sign[number])),
            (f"{percent(found.after)}\nas 8-bit PNG: {percent(found.after_encoding)}",
             rendering.photo(outcome.adversarial[number])),
        ]
    )  # fmt: skip


def _print(found: Certificate) -> None:
    met = {True: "[green]succeeded[/]", False: "[yellow]failed[/]"}
    out.print(f"before       {percent(found.before)}")
    out.print(f"after        {percent(found.after)}: {met[found.success]}")
    out.print(f"as 8-bit PNG {percent(found.after_encoding)}: {met[found.success_after_encoding]}")
    out.print(f"largest change {found.linf * 255:.3g}/255, L2 {found.l2:.4g}, {found.queries} passes")
