"""`convlens adversarial patch`: a round patch that makes the model see one class wherever it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convlens_client import rendering
from convlens_client.cli.adversarial.common import Target, index_of
from convlens_client.cli.adversarial.expectation import Perspective, Rotation, Scale
from convlens_client.cli.common import (
    Json,
    Model,
    NoWait,
    Out,
    Resize,
    Server,
    Tls,
    connect,
    photos,
    resize,
    table,
)
from convlens_client.cli.following import finish
from convlens_client.cli.robustness import Photos
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.requests.adversarial import Transforms
from convlens_client.results import Array

SHOWN = 4


def patch(
    pictures: Photos,
    *,
    target: Target,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Photo or folder to judge by, repeat for several; default: every fifth photo."),
    ] = None,
    diameter: Annotated[
        float | None, typer.Option(help="Of the patch, over the side of the picture; default 0.35.")
    ] = None,
    rotation: Rotation = None,
    scale: Scale = None,
    perspective: Perspective = None,
    samples: Annotated[int | None, typer.Option(help="Pictures in each step; default 16.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps; default 500.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam, in pixel values; default 0.03.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of places and pictures; default 0.")] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Learn a patch from photos that makes the model see a class on others too (Brown et al. 2017)."""
    with connect(server, tls) as client:
        operation = client.adversarial_patch(
            photos(pictures),
            index_of(client, model, target),
            held_out=photos(held_out) if held_out else (),
            size=diameter,
            transforms=Transforms(rotation=rotation, scale=scale, perspective=perspective),
            samples=samples,
            steps=steps,
            learning_rate=learning_rate,
            seed=seed,
            model=model,
            resize=resize(size),
        )
        finish(operation, file, f"{target}-patch.png", json=json, no_wait=no_wait, draw=draw, tell=tell)


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The patch on white; and on some of the photos that it has not seen."""
    mask = operation.artifact("mask")[0]
    disc = operation.artifact("disc")[0] * mask + 1 - mask
    pictures = operation.artifact("pictures")[:SHOWN]
    return disc, rendering.sheet(
        [("patch", rendering.photo(disc)), *(("", rendering.photo(pixels)) for pixels in pictures)]
    )


def tell(operation: Operation) -> None:
    """Prints how often the target is seen."""
    found = operation.report
    rows = (
        ("with the patch", found.success),
        ("with a patch of noise", found.noise_success),
        ("without a patch", found.clean_success),
    )
    title = f" taken for the target, of {found.placements} placements"
    table(("held-out photos", title), ((name, f"{share:.1%}") for name, share in rows))
