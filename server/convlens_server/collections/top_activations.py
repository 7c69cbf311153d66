"""The images that excite a unit most, and what it sees in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens.v1 import unit_pb2
from convlens_models.manifest import Layer
from convlens_models.measures.receptive_field import Size, receptive_field
from convlens_server.collections.features import Table
from convlens_workers.collections import Features

F64 = NDArray[np.floating[Any]]


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

    def values_and_places(features: Features) -> F64:
        channels = features.values.shape[1]
        if channel >= channels:
            raise InvalidArgument.of(
                "channel", channel, f"between 0 and {channels - 1}, the last of {table.which.layer}"
            )
        width = np.full(len(features.values), features.width)
        return np.column_stack([features.values[:, channel], features.positions[:, channel], width])

    return [
        Top(int(image), float(value), *divmod(int(place), int(width)))
        for image, value, place, width in strongest_rows(table, values_and_places, k)
    ]


def strongest_rows(table: Table, columns: Callable[[Features], F64], k: int) -> F64:
    """What `columns` (n, m) tells of the images whose first column is largest, behind their positions.

    At most `k` rows, strongest first, equals in the order of the collection.
    """
    found: list[F64] = []
    for positions, features in table.blocks():
        rows = np.concatenate([*found, np.column_stack([positions, columns(features)])])
        found = [rows[np.lexsort((rows[:, 0], -rows[:, 1]))[:k]]]
    return found[0]


def hit(top: Top, layer: Layer, size: Size) -> unit_pb2.UnitHit:
    """The place with its receptive field in an input of `size` (height, width)."""
    box = receptive_field(layer, top.y, top.x, size).clipped(size)
    return unit_pb2.UnitHit(value=top.value, y=top.y, x=top.x, box=unit_pb2.Box(**box._asdict()))
