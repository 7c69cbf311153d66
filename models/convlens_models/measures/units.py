"""Single units: the map of a channel, and where in an image it is strongest. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convlens.errors import InvalidArgument

F32 = NDArray[np.float32]


class Hit(NamedTuple):
    """The strongest unit of a channel in an image: its value, and its row and column in the layer's map."""

    value: float
    y: int
    x: int


def channel_map(value: F32, layer: str, channel: int) -> F32:
    """Channel `channel` of a layer's value (N, C, H, W), as (N, H, W).

    Raises:
        InvalidArgument: the layer has no spatial axes, or no such channel.
    """
    check_channel(value.shape[1:], layer, channel)
    return value[:, channel]


def check_channel(shape: Sequence[int], layer: str, channel: int, path: str = "") -> None:
    """Raise InvalidArgument unless a layer of that shape has spatial axes and that channel."""
    if len(shape) != 3:
        shown = f"{layer} of shape {list(shape)}"
        raise InvalidArgument.of(f"{path}layer", shown, "a layer with spatial axes, (C, H, W)")
    if channel >= shape[0]:
        allowed = f"between 0 and {shape[0] - 1}, the last of {layer}"
        raise InvalidArgument.of(f"{path}channel", channel, allowed)


def strongest(maps: F32) -> list[Hit]:
    """The largest value of each map (N, H, W), the first of equals."""
    width = maps.shape[2]
    flat = maps.reshape(len(maps), -1)
    return [
        Hit(float(row[best]), *divmod(int(best), width))
        for row, best in zip(flat, flat.argmax(axis=1), strict=True)
    ]
