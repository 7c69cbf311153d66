"""Maps scaled to the size of an image: bilinear, pixel centres at half-integers, edges continued.

The same numbers as PyTorch's `interpolate(mode="bilinear", align_corners=False)`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convlens_models.backend import F64


def bilinear(maps: NDArray[np.floating], height: int, width: int) -> F64:
    """Maps (..., h, w) as (..., height, width)."""
    rows, columns = (_weights(*sizes) for sizes in ((maps.shape[-2], height), (maps.shape[-1], width)))
    scaled: F64 = rows @ maps @ columns.T
    return scaled


def _weights(source: int, target: int) -> F64:
    """(target, source): how much each source position counts at each target position."""
    places = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    below = np.minimum(places.astype(int), max(source - 2, 0))
    share = places - below
    weights = np.zeros((target, source))
    weights[np.arange(target), below] = 1 - share
    weights[np.arange(target), np.minimum(below + 1, source - 1)] += share
    return weights
