"""Pools a layer's map into one vector for each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convlens.v1 import inspection_pb2
from convlens_workers.collections.files import Features

F32 = NDArray[np.float32]


def pool(value: F32, pooling: int) -> Features:
    """Vectors of a layer's value (N, C, H, W) or (N, C): mean or maximum over positions, or all positions."""
    maps = value.reshape(*value.shape[:2], -1)
    return POOLINGS[pooling](maps, value.shape[3] if value.ndim == 4 else 1)


def _mean(maps: F32, width: int) -> Features:
    return Features(maps.mean(axis=2), _nowhere(maps), width)


def _max(maps: F32, width: int) -> Features:
    positions = maps.argmax(axis=2)
    values = np.take_along_axis(maps, positions[..., None], axis=2)[..., 0]
    return Features(values, positions.astype(np.int32), width)


def _flatten(maps: F32, width: int) -> Features:
    return Features(np.ascontiguousarray(maps.reshape(len(maps), -1)), _nowhere(maps), width)


def _nowhere(maps: F32) -> NDArray[np.int32]:
    return np.zeros((len(maps), 0), np.int32)


POOLINGS: Final[Mapping[int, Callable[[F32, int], Features]]] = {
    inspection_pb2.POOLING_MEAN: _mean,
    inspection_pb2.POOLING_MAX: _max,
    inspection_pb2.POOLING_FLATTEN: _flatten,
}
