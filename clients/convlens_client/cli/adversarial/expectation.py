"""`convlens adversarial expectation`: a change that keeps its target however the picture is seen."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer

from convlens_client import charts, rendering
from convlens_client.cli.adversarial.common import Target, certificates, index_of
from convlens_client.cli.attack import NormOption
from convlens_client.cli.common import (
    Image,
    Json,
    Model,
    NoWait,
    Out,
    Resize,
    Server,
    Tls,
    connect,
    eps,
    resize,
)
from convlens_client.cli.following import finish
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.requests.adversarial import Transforms
from convlens_client.results import Array

Rotation = Annotated[float | None, typer.Option(help="Largest rotation in degrees, both ways; default 30.")]
Scale = Annotated[float | None, typer.Option(help="Largest change of the scale; default 0.1.")]
Perspective = Annotated[
    float | None, typer.Option(help="Largest shift of a corner over the side; default 0.05.")
]


def expectation(
    image: Image,
    *,
    target: Target,
    eps: Annotated[
        float | None,
        typer.Option(parser=eps, help="Largest change of a pixel in [0, 1], default 16/255; l2: 8."),
    ] = None,
    norm: NormOption = None,
    samples: Annotated[int | None, typer.Option(help="Transforms drawn for each step; default 30.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps; default 300.")] = None,
    rotation: Rotation = None,
    scale: Scale = None,
    perspective: Perspective = None,
    angles: Annotated[int | None, typer.Option(help="Angles of the curve; default 13.")] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Held-out transforms at each angle; default 10.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the transforms; default 0.")] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Make the model see another class however a picture is turned and lit (Athalye et al. 2018)."""
    with connect(server, tls) as client:
        operation = client.expectation_attack(
            image,
            index_of(client, model, target),
            transforms=Transforms(rotation=rotation, scale=scale, perspective=perspective),
            norm="linf" if norm is None else norm.value,
            epsilon=eps,
            samples=samples,
            steps=steps,
            angles=angles,
            held_out=held_out,
            seed=seed,
            model=model,
            resize=resize(size),
        )
        finish(
            operation,
            file,
            f"{image.stem}-{target}.png",
            json=json,
            no_wait=no_wait,
            draw=draw,
            tell=certificates,
        )


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The first adversarial image; the three pictures, and how probable the target is at each angle."""
    names = ("original", "naive", "adversarial")
    pictures = {name: operation.artifact(name) for name in names}
    shown = [(name, rendering.photo(images[0])) for name, images in pictures.items()]
    return pictures["adversarial"][0], rendering.sheet([*shown, ("", curve(operation))])


def curve(operation: Operation) -> Picture:
    """The probability of the target over the angle, the median of all images: naive and adversarial."""
    angles = operation.artifact("angles")
    _, naive, adversarial = np.median(operation.artifact("probabilities"), axis=1)
    series = {"naive": naive.tolist(), "over transforms": adversarial.tolist()}
    return charts.curves(series, [f"{angle:.3g}" for angle in angles], "degrees; probability of the target")
