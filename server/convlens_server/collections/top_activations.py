"""The images of a collection that excite a unit most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
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
            allowed = f"between 0 and {channels - 1}, the last of {table.which.layer}"
            raise InvalidArgument.of("channel", channel, allowed)
        width = np.full(len(features.values), features.width)
        return np.column_stack([features.values[:, channel], features.positions[:, channel], width])

    return [
        Top(int(image), float(value), *divmod(int(place), int(width)))
        for image, value, place, width in strongest_rows(table, values_and_places, k)
    ]


def strongest_rows(table: Table, columns: Callable[[Features], F64], k: int) -> F64:
    """The rows of `columns`, (n, m), with the largest first values, each behind its image's position.

    At most `k` rows, strongest first, equals in the order of the collection.
    """
    best: list[F64] = []
    for positions, features in table.blocks():
        rows = np.concatenate([*best, np.column_stack([positions, columns(features)])])
        best = [rows[np.lexsort((rows[:, 0], -rows[:, 1]))[:k]]]
    return best[0]
