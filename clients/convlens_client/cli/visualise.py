"""`convlens visualise`: what units look for."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from typing import Annotated, Any

import typer

from convlens.errors import InvalidArgument
from convlens_client.cli import completion
from convlens_client.cli.following import finish
from convlens_client.cli.options import STEPWISE, Shared, command
from convlens_client.cli.outcomes import visualisation
from convlens_client.cli.plugins import ORDER
from convlens_client.cli.targets import parse_neuron
from convlens_client.requests import synthesis
from convlens_client.requests.target import Channel, ClassScore, Target


@command("seed", *STEPWISE, request=synthesis.visualise)
def visualise(
    given: Shared,
    context: typer.Context,
    *,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", autocompletion=completion.classes, help="Class, by index or label; repeat for several."
        ),
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
    """Draw pictures that excite classes, channels or neurons, from noise. Ctrl-C cancels the job.

    Example: convlens visualise --class dots --unit features.relu2:3 --out units.png
    """
    named = [(option, text) for option, text in _in_order(context, unit=unit, classes=classes)]
    if not named:
        raise InvalidArgument.of("unit", "nothing", "given, or --class")
    model = given.client.get_model(given.model)
    targets: list[Target] = [
        parse_unit(text, model.layer_names) if option == "unit" else ClassScore(model.class_index(text))
        for option, text in named
    ]
    names = [text for _, text in named]
    objectives = [dict.fromkeys(targets, 1.0)] if together else targets
    operation = given.client.visualise(objectives, pixels=pixels, **parameters)

    finish(given, operation, "units.png", draw=functools.partial(visualisation.draw, names=names))


def _in_order(context: typer.Context, **given: list[str] | None) -> Iterator[tuple[str, str]]:
    """Options and their values in the order of the command line."""
    values = {option: iter(texts or ()) for option, texts in given.items()}
    for option in context.meta[ORDER]:
        if option in values:
            yield option, next(values[option])


def parse_unit(text: str, layers: Collection[str] = ()) -> Target:
    """LAYER:CHANNEL is a whole channel, LAYER:CHANNEL:Y:X one neuron."""
    neuron = parse_neuron(text, layers, "unit")
    whole = text == f"{neuron.layer}:{neuron.channel}"
    return Channel(neuron.layer, neuron.channel) if whole else neuron
