"""`convlens visualise`: what units look for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import numpy as np
import typer

from convlens.errors import InvalidArgument
from convlens_client import rendering
from convlens_client.cli.common import Json, Model, NoWait, Out, Server, Tls, connect
from convlens_client.cli.following import finish
from convlens_client.cli.targets import parse_neuron
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.requests.target import Channel, ClassScore, Target
from convlens_client.results import Array

SIDE: Final = 192
"""Height of the pictures of a sheet."""


def visualise(
    *,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Class, by index or label; repeat for several.")
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(help="Channel or neuron; repeat for several.", metavar="LAYER:CHANNEL[:Y:X]"),
    ] = None,
    together: Annotated[bool, typer.Option("--together", help="One picture for the sum of all.")] = False,
    variants: Annotated[int | None, typer.Option(help="Different pictures of each; default 1.")] = None,
    diversity: Annotated[float | None, typer.Option(help="How different; default 1.")] = None,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="The plain way: pixels, L2 decay, blur, from grey.")
    ] = False,
    side: Annotated[int | None, typer.Option("--size", help="Side in pixels; default: the model's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps for each; default 512.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of noise and transforms; default 0.")] = None,
    collection: Annotated[
        str, typer.Option(help="Show what excites each most in the images of this collection, too.")
    ] = "",
    examples: Annotated[int | None, typer.Option(help="Images of the collection; default 9.")] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Draw pictures that excite classes, channels or neurons, from noise. Ctrl-C cancels the job."""
    with connect(server, tls) as client:
        targets: list[Target] = [parse_unit(text) for text in unit or ()]
        names = list(unit or ())
        if classes:
            labels = client.get_model(model)
            targets += [ClassScore(labels.class_index(text)) for text in classes]
            names += classes
        if not targets:
            raise InvalidArgument.of("unit", "nothing", "given, or --class")
        operation = client.visualise(
            [dict.fromkeys(targets, 1.0)] if together else targets,
            variants=variants,
            diversity=diversity,
            size=side,
            steps=steps,
            pixels=pixels,
            collection=collection,
            examples=examples,
            seed=seed,
            model=model,
        )

        def draw(operation: Operation) -> tuple[Array, Picture]:
            made = operation.result()
            return made["images"], sheet(names, made["images"], made["examples"])

        beside = draw if collection else None
        finish(operation, file, "units.png", json=json, no_wait=no_wait, draw=beside)


def sheet(names: Sequence[str], images: Array, examples: Array) -> Picture:
    """For each objective what was made for it, its name below, beside what excites it in photos."""
    cells = [
        rendering.sheet([(name, _grid(made)), ("", _grid(found))], SIDE)
        for name, made, found in zip(
            names, np.split(images, len(names)), np.split(examples, len(names)), strict=True
        )
    ]
    return rendering.grid(rendering.same_size(cells))


def _grid(images: Array) -> Picture:
    return rendering.grid([rendering.photo(image) for image in images])


def parse_unit(text: str) -> Target:
    """LAYER:CHANNEL is a whole channel, LAYER:CHANNEL:Y:X one neuron."""
    neuron = parse_neuron(text)
    whole = text == f"{neuron.layer}:{neuron.channel}"
    return Channel(neuron.layer, neuron.channel) if whole else neuron
