"""The images that excite a unit most, and what it sees in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from convlens.errors import InvalidArgument
from convlens.v1 import unit_pb2
from convlens_models.manifest import Layer
from convlens_models.receptive_field import Size, receptive_field
from convlens_server.collections.features import Table


class Top(NamedTuple):
    """An image of the collection, and where in its map the unit is strongest."""

    position: int
    value: float
    y: int
    x: int


def top_activations(table: Table, channel: int, k: int) -> list[Top]:
    """The `k` images in which a channel's maximum is largest, strongest first, one hit an image.

    Raises:
        InvalidArgument: no such channel.
    """
    best = np.zeros((0, 3))
    width = 1
    for positions, features in table.blocks():
        width, channels = features.width, features.values.shape[1]
        if channel >= channels:
            raise InvalidArgument.of(
                "channel", channel, f"between 0 and {channels - 1}, the last of {table.which.layer}"
            )
        block = np.column_stack([positions, features.values[:, channel], features.positions[:, channel]])
        rows = np.concatenate([best, block])
        best = rows[np.lexsort((rows[:, 0], -rows[:, 1]))[:k]]
    return [Top(int(image), float(value), *divmod(int(place), width)) for image, value, place in best]


def hit(top: Top, layer: Layer, size: Size) -> unit_pb2.UnitHit:
    """The place with its receptive field in an input of `size` (height, width)."""
    box = receptive_field(layer, top.y, top.x, size).clipped(size)
    return unit_pb2.UnitHit(value=top.value, y=top.y, x=top.x, box=unit_pb2.Box(**box._asdict()))
