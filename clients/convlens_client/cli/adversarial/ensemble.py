"""`convlens adversarial ensemble`: the accuracy that several attacks without settings leave together."""

from __future__ import annotations

from typing import Annotated

import typer

from convlens_client import rendering
from convlens_client.cli.attack import Norm
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
    percent,
    photos,
    resize,
    table,
)
from convlens_client.cli.following import finish
from convlens_client.cli.robustness import Labels, LabelsFromNames, Photos, classes
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array


def ensemble(
    pictures: Photos,
    *,
    labels: Labels = None,
    labels_from_names: LabelsFromNames = False,
    norm: Annotated[Norm, typer.Option(help="What bounds the change.")] = Norm.LINF,
    eps: Annotated[
        float | None, typer.Option(parser=eps, help="Radius of the ball; default 8/255, or 0.5 for l2.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of each APGD run; default 100.")] = None,
    targets: Annotated[int | None, typer.Option(help="Target classes of APGD-T; default 9.")] = None,
    queries: Annotated[int | None, typer.Option(help="Queries of Square an image; default 5000.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of starts and squares; default 0.")] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Attack by APGD-CE, APGD-T and Square in turn: what stands is the worst case (Croce & Hein 2020)."""
    paths = photos(pictures)
    with connect(server, tls) as client:
        operation = client.attack_ensemble(
            paths,
            classes(paths, labels, labels_from_names, client.get_model(model)),
            norm=norm.value,
            epsilon=eps,
            steps=steps,
            targets=targets,
            queries=queries,
            seed=seed,
            model=model,
            resize=resize(size),
        )
        finish(operation, file, "ensemble.png", json=json, no_wait=no_wait, draw=draw, tell=tell)


def draw(operation: Operation) -> tuple[Array, Picture]:
    """All adversarial images; the first ones as a sheet, with what the model sees in them."""
    images = operation.artifact("adversarial")
    found = zip(operation.report.certificates, images, strict=True)
    shown = [(percent(one.after), rendering.photo(image)) for one, image in list(found)[:8]]
    return images, rendering.sheet(shown, height=160)


def tell(operation: Operation) -> None:
    """Prints what each attack did."""
    found = operation.report
    table(
        ("attack", " attacked", " broken", " passes", " accuracy left"),
        (
            (member.attack, member.attacked, member.broken, member.queries, f"{member.accuracy:.1%}")
            for member in found.members
        ),
    )
    out.print(f"accuracy {found.clean_accuracy:.1%} before, {found.accuracy:.1%} in the worst case")
