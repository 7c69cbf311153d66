"""`convlens adversarial defence`: what a defence is worth once the attacker knows of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from convlens_client import rendering
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
    percent,
    photos,
    resize,
    step_size,
    table,
)
from convlens_client.cli.following import finish
from convlens_client.cli.robustness import Labels, LabelsFromNames, Photos, classes
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array


class Defences(StrEnum):
    """What can stand before the model."""

    JPEG = "jpeg"
    BIT_DEPTH = "bit_depth"
    TOTAL_VARIATION = "total_variation"


def defence(
    pictures: Photos,
    *,
    kind: Annotated[
        Defences, typer.Option("--defence", help="What stands before the model.")
    ] = Defences.JPEG,
    strength: Annotated[
        float | None,
        typer.Option(help="Quality (default 75), bits (3), or weight of the total variation (0.1)."),
    ] = None,
    labels: Labels = None,
    labels_from_names: LabelsFromNames = False,
    eps: Annotated[
        float | None, typer.Option(parser=eps, help="Largest change of a pixel value; default 8/255.")
    ] = None,
    step_size: Annotated[
        float | None, typer.Option(parser=step_size, help="Length of a step; default eps / 4.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of each attack; default 40.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the random start; default 0.")] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Attack a defended model plainly, and by BPDA, which goes through the defence (Athalye et al. 2018)."""
    paths = photos(pictures)
    with connect(server, tls) as client:
        operation = client.defence_attack(
            paths,
            classes(paths, labels, labels_from_names, client.get_model(model)),
            kind.value,
            strength=strength,
            epsilon=eps,
            step_size=step_size,
            steps=steps,
            seed=seed,
            model=model,
            resize=resize(size),
        )
        finish(operation, file, "defence.png", json=json, no_wait=no_wait, draw=draw, tell=tell)


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The images of BPDA; the first one, its change, and what the defended model sees in both."""
    found = operation.report.certificates[0]
    original, adversarial = (operation.artifact(name) for name in ("original", "adversarial"))
    change = adversarial[0] - original[0]
    gain = 0.5 / max(found.linf, 1e-9)
    return adversarial, rendering.sheet(
        [
            (f"defended: {percent(found.before)}", rendering.photo(original[0])),
            (
                f"change x {gain:.3g}\nat most {found.linf * 255:.3g}/255",
                rendering.photo(0.5 + gain * change),
            ),
            (f"defended: {percent(found.after)}", rendering.photo(adversarial[0])),
        ]
    )


def tell(operation: Operation) -> None:
    """Prints what accuracy is left."""
    found = operation.report
    rows = (
        ("no attack, defended", found.clean_accuracy),
        ("plain PGD, not defended", found.undefended_accuracy),
        ("plain PGD, defended", found.plain_accuracy),
        ("BPDA, defended", found.accuracy),
    )
    table(("attack", " accuracy"), ((name, f"{share:.1%}") for name, share in rows))
