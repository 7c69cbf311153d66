"""Pictures to prove networks on: coarse shapes, finer ones and some noise, the same every time."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COUNT: Final = 8
SCALES: Final = ((3, 0.5), (8, 0.25), (24, 0.15))
"""Cells along each side, and the weight, of the random grids that are enlarged and added up."""
NOISE: Final = 0.05


def pictures(height: int, width: int, count: int = COUNT) -> NDArray[np.float32]:
    """`count` images (count, 3, height, width) in [0, 1], of which no two pixels are likely to be equal."""
    rng = np.random.default_rng(0)
    found = np.full((count, 3, height, width), 0.5, np.float32)
    for cells, weight in SCALES:
        grids = rng.uniform(-1, 1, (count * 3, cells, cells)).astype(np.float32)
        planes = [
            np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
            for grid in grids
        ]
        found += weight * np.stack(planes).reshape(found.shape)
    found += NOISE * rng.standard_normal(found.shape).astype(np.float32)
    # Folded back at the ends rather than cut off: areas of one value would hide what pads do.
    folded: NDArray[np.float32] = 1 - np.abs(1 - np.abs(found) % 2)
    return folded
