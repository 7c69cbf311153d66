"""`convlens visualise`: what units look for."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer

from convlens.errors import InvalidArgument
from convlens_client.cli.following import finish
from convlens_client.cli.options import JOB, Shared, command
from convlens_client.cli.outcomes import visualisation
from convlens_client.cli.targets import parse_neuron
from convlens_client.requests import synthesis
from convlens_client.requests.target import Channel, ClassScore, Target


@command("seed", *JOB, request=synthesis.visualise)
def visualise(
    given: Shared,
    *,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Class, by index or label; repeat for several.")
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(help="Channel or neuron; repeat for several.", metavar="LAYER:CHANNEL[:Y:X]"),
    ] = None,
    together: Annotated[bool, typer.Option("--together", help="One picture for the sum of all.")] = False,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="The plain way: pixels, L2 decay, blur, from grey.")
    ] = False,
    **parameters: Any,
) -> None:
    """Draw pictures that excite classes, channels or neurons, from noise. Ctrl-C cancels the job."""
    targets: list[Target] = [parse_unit(text) for text in unit or ()]
    names = [*(unit or ()), *(classes or ())]
    if classes:
        model = given.client.get_model(given.model)
        targets += [ClassScore(model.class_index(text)) for text in classes]
    if not targets:
        raise InvalidArgument.of("unit", "nothing", "given, or --class")
    objectives = [dict.fromkeys(targets, 1.0)] if together else targets
    operation = given.client.visualise(objectives, pixels=pixels, **parameters)

    finish(given, operation, "units.png", draw=functools.partial(visualisation.draw, names=names))


def parse_unit(text: str) -> Target:
    """LAYER:CHANNEL is a whole channel, LAYER:CHANNEL:Y:X one neuron."""
    neuron = parse_neuron(text)
    whole = text == f"{neuron.layer}:{neuron.channel}"
    return Channel(neuron.layer, neuron.channel) if whole else neuron
