"""`convlens adversarial printed`: which attacks survive being printed and photographed."""

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


def printed(
    pictures: Photos,
    *,
    labels: Labels = None,
    labels_from_names: LabelsFromNames = False,
    eps: Annotated[
        list[float] | None,
        typer.Option(parser=eps, help="Epsilon; repeat, rising; default: 4/255, 8/255, 16/255."),
    ] = None,
    photographs: Annotated[int | None, typer.Option(help="Of each print; default 8.")] = None,
    rotation: Annotated[
        float | None, typer.Option(help="Largest rotation in degrees, both ways; default 5.")
    ] = None,
    perspective: Annotated[
        float | None, typer.Option(help="Largest shift of a corner over the side; default 0.03.")
    ] = None,
    blur: Annotated[
        float | None, typer.Option(help="Largest blur in pixels, at 227 px a side; default 0.6.")
    ] = None,
    gamma: Annotated[float | None, typer.Option(help="Largest gamma; default 1.2.")] = None,
    noise: Annotated[float | None, typer.Option(help="Of the sensor; default 0.01.")] = None,
    quality: Annotated[int | None, typer.Option(help="Of the camera's JPEG; default 85.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the camera; default 0.")] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Attack photos, print and photograph them, and count what is undone by it (Kurakin et al. 2017)."""
    paths = photos(pictures)
    with connect(server, tls) as client:
        operation = client.printed_photo(
            paths,
            classes(paths, labels, labels_from_names, client.get_model(model)),
            epsilons=eps or (),
            photographs=photographs,
            rotation=rotation,
            blur=blur,
            gamma=gamma,
            quality=quality,
            perspective=perspective,
            noise=noise,
            seed=seed,
            model=model,
            resize=resize(size),
        )
        finish(operation, file, "printed.png", json=json, no_wait=no_wait, draw=draw, tell=tell)


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The first picture as the camera saw it after each attack; as a picture, the destruction rates."""
    rows = operation.report.rows
    epsilons = sorted({row.epsilon for row in rows})
    series = {
        name: [row.destruction for row in rows if row.attack == name]
        for name in dict.fromkeys(row.attack for row in rows)
    }
    ticks = [f"{epsilon * 255:.4g}" for epsilon in epsilons]
    return operation.artifact("photographs"), charts.curves(
        series, ticks, "epsilon / (1/255); successes that a photograph undoes"
    )


def tell(operation: Operation) -> None:
    """Prints a row for each attack and epsilon."""
    found = operation.report
    table(
        ("attack", " epsilon", " success", " undone by a photograph"),
        (
            (row.attack, f"{row.epsilon * 255:.4g}/255", f"{row.success:.1%}", f"{row.destruction:.1%}")
            for row in found.rows
        ),
    )
    out.print(f"photographs of unchanged prints seen rightly: {found.clean_accuracy:.1%}")
