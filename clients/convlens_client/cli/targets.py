"""What is explained, as options: a class, or a unit inside the network."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from convlens.errors import InvalidArgument
from convlens_client.cli import completion
from convlens_client.cli.options import Shared
from convlens_client.requests.target import Channel, ClassScore, Direction, LogProbability, Neuron, Target
from convlens_client.results import Model


@dataclass(frozen=True)
class Targeted(Shared):
    """The options that say what is explained; a command that takes them has all of them."""

    label: Annotated[
        str | None,
        typer.Option(
            "--class",
            autocompletion=completion.classes,
            help="Class, by index or label; default: the predicted one.",
        ),
    ] = None
    log_prob: Annotated[bool, typer.Option("--log-prob", help="log P(class) instead of its score.")] = False
    neuron: Annotated[str | None, typer.Option(help="One neuron.", metavar="LAYER:CHANNEL:Y:X")] = None
    channel: Annotated[str | None, typer.Option(help="The mean of one channel.", metavar="LAYER:CHANNEL")] = (
        None
    )
    direction: Annotated[
        str | None, typer.Option(help="A direction among a layer's channels.", metavar="LAYER:FILE.npy")
    ] = None

    @property
    def unit(self) -> str | None:
        """What names a unit or direction; None where a class is explained."""
        return self.neuron or self.channel or self.direction

    def target(self, model: Model) -> Target:
        """The target that the options name, of a model. Raises InvalidArgument when they name several."""
        units = [(name, getattr(self, name)) for name in PARSERS if getattr(self, name) is not None]
        if len(units) > 1 or (units and (self.label or self.log_prob)):
            raise InvalidArgument.of(*units[0], "without --class, --log-prob and other units")
        for name, text in units:
            return parse_neuron(text, model.layer_names) if name == "neuron" else PARSERS[name](text)
        index = None if self.label is None else model.class_index(self.label)
        return LogProbability(index) if self.log_prob else ClassScore(index)


def parse_neuron(text: str, layers: Collection[str] = (), field: str = "neuron") -> Neuron:
    """LAYER:CHANNEL, LAYER:CHANNEL:Y:X; layer names may hold colons, so that `layers` tells which there are.

    Raises:
        InvalidArgument: something is missing; says what.
    """
    match = re.fullmatch(r"(.+?)((?::\d+)*)", text)
    layer, numbers = (match[1], match[2].split(":")[1:]) if match else ("", [])
    allowed = "LAYER:CHANNEL:Y:X or LAYER:CHANNEL, numbers from 0"
    for count in (3, 1):
        name = ":".join([layer, *numbers[: len(numbers) - count]])
        if len(numbers) == count or (len(numbers) > count and name in layers):
            return Neuron(name, *map(int, numbers[len(numbers) - count :]))
    missing = "the channel" if not numbers else "X" if len(numbers) == 2 else "a layer of this name"
    raise InvalidArgument.of(field, text, f"{allowed}: {missing} is missing")


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
