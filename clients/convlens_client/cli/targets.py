"""What is explained, as options: a class, or a unit inside the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from convlens.errors import InvalidArgument
from convlens_client.requests.target import Channel, ClassScore, Direction, LogProbability, Neuron, Target
from convlens_client.results import Model as ModelFacts

Class = Annotated[
    str | None, typer.Option("--class", help="Class, by index or label; default: the predicted one.")
]
LogProb = Annotated[bool, typer.Option("--log-prob", help="log P(class) instead of its score.")]
OneNeuron = Annotated[str | None, typer.Option("--neuron", help="One neuron.", metavar="LAYER:CHANNEL:Y:X")]
OneChannel = Annotated[
    str | None, typer.Option("--channel", help="The mean of one channel.", metavar="LAYER:CHANNEL")
]
OneDirection = Annotated[
    str | None,
    typer.Option("--direction", help="A direction among a layer's channels.", metavar="LAYER:FILE.npy"),
]


def parse_target(
    facts: ModelFacts,
    label: str | None,
    log_prob: bool,
    *,
    neuron: str | None,
    channel: str | None,
    direction: str | None,
) -> Target:
    """The target that the options name. Raises InvalidArgument when they name several."""
    units = {"neuron": neuron, "channel": channel, "direction": direction}
    chosen = {name: text for name, text in units.items() if text is not None}
    if len(chosen) > 1 or (chosen and (label or log_prob)):
        name, text = next(iter(chosen.items()))
        raise InvalidArgument.of(name, text, "without --class, --log-prob and other units")
    if not chosen:
        index = facts.class_index(label) if label is not None else None
        return LogProbability(index) if log_prob else ClassScore(index)
    ((name, text),) = chosen.items()
    return PARSERS[name](text)


def parse_neuron(text: str) -> Neuron:
    """LAYER:CHANNEL, LAYER:CHANNEL:Y:X; layer names may hold colons."""
    for count in (3, 1):
        layer, *numbers = text.rsplit(":", count)
        if len(numbers) == count and all(number.isdecimal() for number in numbers) and layer:
            return Neuron(layer, *map(int, numbers))
    raise InvalidArgument.of("neuron", text, "LAYER:CHANNEL:Y:X or LAYER:CHANNEL, numbers from 0")


def parse_channel(text: str) -> Channel:
    """LAYER:CHANNEL; layer names may hold colons."""
    layer, _, number = text.rpartition(":")
    if not layer or not number.isdecimal():
        raise InvalidArgument.of("channel", text, "LAYER:CHANNEL, counted from 0")
    return Channel(layer, int(number))


def parse_direction(text: str) -> Direction:
    """LAYER:FILE.npy, an array of one number a channel."""
    layer, _, name = text.partition(":")
    try:
        vector = np.load(Path(name), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidArgument.of(
            "direction", text, f"LAYER:FILE.npy with a readable array ({error})"
        ) from error
    if not layer or vector.ndim != 1 or vector.dtype.kind not in "fiu":
        raise InvalidArgument.of("direction", text, "LAYER:FILE.npy with one number a channel")
    return Direction(layer, tuple(vector.astype(float).tolist()))


PARSERS: dict[str, Callable[[str], Target]] = {
    "neuron": parse_neuron,
    "channel": parse_channel,
    "direction": parse_direction,
}
