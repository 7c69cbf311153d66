"""RISE.

Petsiuk, Das, Saenko: RISE: Randomized input sampling for explanation (2018), arXiv:1806.07421.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convlens_models.attributions.perturbation import FORWARD, Attributed, Perturbation, Totals
from convlens_models.attributions.perturbed_batches import values
from convlens_models.attributions.resampling import bilinear
from convlens_models.attributions.targets import Target
from convlens_models.backend import F32, F64, Backend


class Rise(Perturbation):
    """The expected target where the pixel is open: sum of T(x * M_i) M_i over sum of M_i, (N, 1, H, W).

    A mask M_i is a grid of `cells` x `cells` that are open with `probability`, scaled up bilinearly and
    shifted by a random part of a cell. What is masked has the model's mean colour, the network's zero. In
    units of the target; what counts is the difference between pixels.

    Departure: the paper divides by the expected sum of the masks. Dividing by their actual sum estimates the
    same expectation without the noise of a target that is far from 0, as scores and log-probabilities are.
    """

    way, grows = FORWARD, "masks"

    @staticmethod
    def copies(params: Any, size: tuple[int, int]) -> int:
        """One a mask."""
        return int(params.masks)

    def empty(self) -> Totals:
        """The masks, weighted by the target behind them, and as they are, (H, W)."""
        size = self.image.shape[1:]
        return {"weighted": np.zeros(size), "opened": np.zeros(size)}

    def more(self, totals: Totals, part: slice, rng: np.random.Generator) -> Totals:
        """The sums with the next masks."""
        params, (_, height, width) = self.params, self.image.shape
        mean = np.asarray(self.backend.stored.manifest.mean, np.float32)[:, None, None]
        opens = masks(rng, (part.stop - part.start, height, width), params.cells, params.probability)
        behind = values(self.backend, self.target, mean + opens[:, None] * (self.image - mean))
        return {
            "weighted": totals["weighted"] + np.einsum("n,nhw->hw", behind.astype(np.float64), opens),
            "opened": totals["opened"] + opens.sum(axis=0, dtype=np.float64),
        }

    def map(self, totals: Totals) -> F64:
        """The mean target of the masks that open a pixel."""
        expected: F64 = totals["weighted"] / np.maximum(totals["opened"], np.finfo(np.float32).tiny)
        return expected

    @classmethod
    def finish(cls, backend: Backend, images: F32, target: Target, maps: F64, params: Any) -> Attributed:
        """The maps as they are."""
        return Attributed(values(backend, target, images), maps[:, None].astype(np.float32))


def masks(rng: np.random.Generator, shape: tuple[int, int, int], cells: int, probability: float) -> F32:
    """Random masks (count, height, width) in [0, 1]; each draws its cells, then its shift."""
    count, height, width = shape
    sides = math.ceil(height / cells), math.ceil(width / cells)
    drawn = [(rng.random((cells, cells)) < probability, rng.integers(0, sides)) for _ in range(count)]
    grids = np.stack([grid for grid, _ in drawn]).astype(np.float32)
    large = bilinear(grids, *((cells + 1) * side for side in sides))
    cuts = [mask[y : y + height, x : x + width] for mask, (_, (y, x)) in zip(large, drawn, strict=True)]
    return np.stack(cuts).astype(np.float32)
