"""The activations of layers: the values inside a network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens.v1 import inspection_pb2
from convlens_server.backends.base import F32, Backend


def activations(
    backend: Backend, images: F32, request: inspection_pb2.GetActivationsRequest
) -> dict[str, NDArray[Any]]:
    """The value of each layer, (N, C, H, W) or (N, C), in the order asked for, each once, from one pass.

    With `channel` it is that channel alone, (N, 1, ...). With `top` it is the channels with the largest means
    over positions, largest first (all, if the layer has fewer), and "<layer>.channels", int32 (N, k), says
    for each image which they are.

    Raises:
        InvalidArgument: a channel that one of the layers does not have.
    """
    values = backend.forward(images, list(dict.fromkeys(request.layers)))
    match request.WhichOneof("channels"):
        case "channel":
            return {name: _channel(value, request.channel, name) for name, value in values.items()}
        case "top":
            return _top(values, request.top)
    return dict(values)


def _channel(value: F32, channel: int, layer: str) -> F32:
    if channel >= value.shape[1]:
        allowed = f"between 0 and {value.shape[1] - 1}, as {layer} has {value.shape[1]} channels"
        raise InvalidArgument.of("channel", channel, allowed)
    return value[:, channel : channel + 1]


def _top(values: dict[str, F32], count: int) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    for name, value in values.items():
        means = value.reshape(*value.shape[:2], -1).mean(axis=2)
        best = np.argsort(-means, axis=1, kind="stable")[:, :count]
        tensors[name] = value[np.arange(len(value))[:, None], best]
        tensors[f"{name}.channels"] = best.astype(np.int32)
    return tensors
