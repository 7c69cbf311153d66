"""`convlens attack`: adversarial images, with their certificate."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

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
    eps,
    out,
    percent,
    resize,
    step_size,
    write,
)
from convlens_client.rendering import Picture
from convlens_client.results import AttackOutcome, Certificate


class Method(StrEnum):
    """Attacks."""

    FGSM = "fgsm"
    BIM = "bim"
    PGD = "pgd"


class Norm(StrEnum):
    """What bounds the change."""

    LINF = "linf"
    L2 = "l2"


class Show(StrEnum):
    """What the picture shows."""

    TRIPLE = "triple"
    ADVERSARIAL = "adversarial"


Steps = Annotated[int | None, typer.Option(help="Steps of bim (default 10) or pgd (default 40).")]
StepSize = Annotated[
    float | None, typer.Option(parser=step_size, help="Length of a step; default: a quarter of eps.")
]
Restarts = Annotated[int | None, typer.Option(help="Random starts of pgd; default 1.")]
NormOption = Annotated[Norm | None, typer.Option(help="Norm of pgd; default linf.")]
Seed = Annotated[int | None, typer.Option(help="Seed of pgd's random starts.")]


def attack(
    image: Image,
    *,
    method: Annotated[Method, typer.Option(help="Technique.")] = Method.FGSM,
    eps: Annotated[
        float | None,
        typer.Option(parser=eps, help="Largest change of a pixel in [0, 1], default 8/255; l2: 0.5."),
    ] = None,
    steps: Steps = None,
    step_size: StepSize = None,
    restarts: Restarts = None,
    norm: NormOption = None,
    target: Annotated[
        str | None, typer.Option(help="Class to be taken for, by index or label; default: any other class.")
    ] = None,
    seed: Seed = None,
    show: Annotated[
        Show,
        typer.Option(help="Picture: photo, sign or change, and result side by side, or the result alone."),
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
            image,
            method.value,
            epsilon=eps,
            target=index,
            model=model,
            resize=resize(size),
            **parameters(steps, step_size, restarts, norm, seed),
        )
    certificate = outcome.certificates[0]
    if json:
        emit({"method": method.value, "certificate": certificate})
    else:
        tell(certificate)
    one_step = method is Method.FGSM
    picture = (
        triple(outcome, one_step=one_step) if show is Show.TRIPLE else rendering.photo(outcome.adversarial[0])
    )
    write(file, outcome.adversarial[0], picture)


def triple(outcome: AttackOutcome, number: int = 0, *, one_step: bool = True) -> Picture:
    """Photo, sign of the gradient and adversarial image side by side, with what the model says.

    After more than one step the sign does not make the image: the change is shown then, enlarged.
    """
    found = outcome.certificates[number]
    middle = (
        f"sign of the gradient\nchange: at most {found.linf * 255:.3g}/255",
        rendering.signs(outcome.gradient_sign[number]),
    )
    if not one_step:
        change = outcome.adversarial[number] - outcome.original[number]
        gain = 0.5 / max(found.linf, 1e-9)
        middle = (
            f"change x {gain:.3g}\nat most {found.linf * 255:.3g}/255, L2 {found.l2:.3g}",
            rendering.photo(0.5 + gain * change),
        )
    return rendering.sheet(
        [
            (percent(found.before), rendering.photo(outcome.original[number])),
            middle,
            (f"{percent(found.after)}\nas 8-bit PNG: {percent(found.after_encoding)}",
             rendering.photo(outcome.adversarial[number])),
        ]
    )  # fmt: skip


def parameters(
    steps: int | None, step_size: float | None, restarts: int | None, norm: Norm | None, seed: int | None
) -> dict[str, Any]:
    """The options that not every method knows; what is None is left out of the request."""
    return {
        "steps": steps,
        "step_size": step_size,
        "restarts": restarts,
        "norm": None if norm is None else norm.value,
        "seed": seed,
    }


def tell(found: Certificate) -> None:
    """What an attack did to an image, for people."""
    met = {True: "[green]succeeded[/]", False: "[yellow]failed[/]"}
    out.print(f"before       {percent(found.before)}")
    if found.met_before:
        out.print("             [yellow]the goal was met before: there was nothing to attack[/]")
    out.print(f"after        {percent(found.after)}: {met[found.success]}")
    out.print(f"as 8-bit PNG {percent(found.after_encoding)}: {met[found.success_after_encoding]}")
    out.print(f"largest change {found.linf * 255:.3g}/255, L2 {found.l2:.4g}, {found.queries} passes")
