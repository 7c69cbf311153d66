"""RISE.

Petsiuk, Das, Saenko: RISE: Randomized input sampling for explanation (2018), arXiv:1806.07421.
"""

from __future__ import annotations

import math

import numpy as np

from convlens.v1 import attribution_pb2
from convlens_server.techniques.base import F32, F64, Attributed, Backend, Target
from convlens_server.techniques.parts.perturbed_batches import batches, values
from convlens_server.techniques.parts.resampling import bilinear


def rise(backend: Backend, images: F32, target: Target, params: attribution_pb2.Rise) -> Attributed:
    """The expected target where the pixel is open: sum of T(x * M_i) M_i over sum of M_i, (N, 1, H, W).

    A mask M_i is a grid of `cells` x `cells` that are open with `probability`, scaled up bilinearly and
    shifted by a random part of a cell. What is masked has the model's mean colour, the network's zero. In
    units of the target; what counts is the difference between pixels.

    Departure: the paper divides by the expected sum of the masks. Dividing by their actual sum estimates the
    same expectation without the noise of a target that is far from 0, as scores and log-probabilities are.
    Each image sees the masks that it would see alone.
    """
    mean = np.asarray(backend.stored.manifest.mean, np.float32)[:, None, None]
    maps = [_expected(backend, image, mean, target.of(i), params) for i, image in enumerate(images)]
    return Attributed(values(backend, target, images), np.stack(maps)[:, None].astype(np.float32))


def _expected(backend: Backend, image: F32, mean: F32, target: Target, params: attribution_pb2.Rise) -> F64:
    height, width = image.shape[1:]
    rng = np.random.default_rng(params.seed)
    weighted, opened = np.zeros((height, width)), np.zeros((height, width))
    for part in batches(params.masks, height * width):
        opens = masks(rng, (part.stop - part.start, height, width), params.cells, params.probability)
        behind = values(backend, target, mean + opens[:, None] * (image - mean))
        weighted += np.einsum("n,nhw->hw", behind.astype(np.float64), opens)
        opened += opens.sum(axis=0, dtype=np.float64)
    return weighted / np.maximum(opened, np.finfo(np.float32).tiny)


def masks(rng: np.random.Generator, shape: tuple[int, int, int], cells: int, probability: float) -> F32:
    """Random masks (count, height, width) in [0, 1]; each draws its cells, then its shift."""
    count, height, width = shape
    sides = math.ceil(height / cells), math.ceil(width / cells)
    drawn = [(rng.random((cells, cells)) < probability, rng.integers(0, sides)) for _ in range(count)]
    grids = np.stack([grid for grid, _ in drawn]).astype(np.float32)
    large = bilinear(grids, *((cells + 1) * side for side in sides))
    cuts = [mask[y : y + height, x : x + width] for mask, (_, (y, x)) in zip(large, drawn, strict=True)]
    return np.stack(cuts).astype(np.float32)
