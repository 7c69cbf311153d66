"""Gradients compared where a network has kinks.

A ReLU near zero and a pool with two near-equal maxima send the gradient one way or the other as the last bit
of a float32 falls, which is another one on each processor. So a gradient that differs from its reference may
be as right as it: if the reference itself jumps as far at images that float32 hardly tells apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SPREAD = 1e-5
"""Standard deviation of the noise, in pixel values, that makes such images."""
TRIES = 8


def relative_l2(found: np.ndarray, reference: np.ndarray) -> float:
    scale = float(np.linalg.norm(reference))
    distance = float(np.linalg.norm(found - reference))
    return distance / scale if scale else distance


def assert_same_gradient(
    found: np.ndarray,
    images: np.ndarray,
    gradient: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
    most: float = 2e-2,
) -> None:
    """Each image's gradient is within `tolerance` of its reference, or within the reference's own jumps."""
    reference = gradient(images)
    errors = np.array([relative_l2(*pair) for pair in zip(found, reference, strict=True)])
    assert errors.max() <= most, errors
    if (errors > tolerance).any():
        rng = np.random.default_rng(0)
        moved = [images + SPREAD * rng.standard_normal(images.shape) for _ in range(TRIES)]
        others = [gradient(other.astype(images.dtype)) for other in moved]
        jumps = np.array([[relative_l2(*pair) for pair in zip(g, reference, strict=True)] for g in others])
        assert (errors <= np.maximum(tolerance, 2 * jumps.max(0))).all(), (errors, jumps.max(0))
