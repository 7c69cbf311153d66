"""`convlens visualise`: what units look for."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from convlens.errors import InvalidArgument
from convlens_client.cli import completion
from convlens_client.cli.following import finish
from convlens_client.cli.options import STEPWISE, Shared, command
from convlens_client.cli.plugins import ORDER
from convlens_client.cli.targets import parse_direction, parse_neuron
from convlens_client.requests import synthesis
from convlens_client.requests.synthesis import Visualised
from convlens_client.requests.target import Caricature, Channel, ClassScore, Of, Target
from convlens_client.results import Model

OF_MODEL: Final = re.compile(r"([a-z0-9][a-z0-9._-]*(?:/\d+)?)@(.+)")
"""What names a network before what is read from it."""


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
    direction: Annotated[
        list[str] | None,
        typer.Option(help="Direction among a layer's channels; repeat.", metavar="LAYER:FILE.npy"),
    ] = None,
    caricature: Annotated[
        list[str] | None,
        typer.Option(help="What a layer sees in a picture, exaggerated; repeat.", metavar="LAYER:PICTURE"),
    ] = None,
    power: Annotated[
        float | None, typer.Option(help="How close caricatures keep to their picture; default 1.", min=0)
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Picture to start from, instead of noise or grey.")
    ] = None,
    together: Annotated[bool, typer.Option("--together", help="One picture for the sum of all.")] = False,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="The plain way: pixels, L2 decay, blur, from grey.")
    ] = False,
    **parameters: Any,
) -> None:
    """Draw pictures that excite classes, channels, neurons or directions, in the order given.

    MODEL@ before any of them reads it from another network than --model. Ctrl-C cancels the job.

    Example: convlens visualise --class dots --unit features.relu2:3 --out units.png
    """
    named = list(_in_order(context, unit=unit, classes=classes, direction=direction, caricature=caricature))
    if not named:
        raise InvalidArgument.of("unit", "nothing", "given, or --class, --direction, --caricature")
    parsers: Mapping[str, Callable[[str, Model], Target | Caricature]] = {
        "unit": lambda text, model: parse_unit(text, model.layer_names),
        "classes": lambda text, model: ClassScore(model.class_index(text)),
        "direction": lambda text, _: parse_direction(text),
        "caricature": lambda text, _: parse_caricature(text, power),
    }
    known = functools.cache(given.client.get_model)
    targets: list[Visualised] = []
    for option, text in named:
        other, what = match.groups() if (match := OF_MODEL.fullmatch(text)) else ("", text)
        target = parsers[option](what, known(other or given.model))
        targets.append(Of(other, target) if other else target)
    objectives = [dict.fromkeys(targets, 1.0)] if together else targets
    operation = given.client.visualise(objectives, start=start, pixels=pixels, **parameters)
    finish(given, operation, "units.png")


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


def parse_caricature(text: str, power: float | None = None) -> Caricature:
    """LAYER:PICTURE, the path of a file."""
    layer, _, name = text.partition(":")
    if not layer or not name:
        raise InvalidArgument.of("caricature", text, "LAYER:PICTURE")
    return Caricature(layer, Path(name), power)
