"""Insertion and deletion: two measures of how well a map ranks the pixels.

Petsiuk, Das, Saenko: RISE: Randomized input sampling for explanation (2018), arXiv:1806.07421, section 4.1.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from convlens_models.manifest import PROBABILITIES
from convlens_server.backends.base import F32, F64, Backend
from convlens_server.techniques import ATTRIBUTIONS
from convlens_server.techniques.parts.perturbed_batches import batches, values
from convlens_server.techniques.parts.targets import Target, one_hot

GREY: Final = 0.5
BLUR: Final = 5 / 224
"""Deviation and radius of the blur, as a share of the image's smaller side: the authors' 11 pixels at 224."""


class Quality(NamedTuple):
    """Scores of one map an image, (N,): insertion (higher is better) and deletion (lower is better)."""

    insertion: F32
    deletion: F32


def importance(technique: str, attribution: F32) -> F32:
    """The numbers that rank the pixels of maps (N, C, H, W), as (N, H, W).

    The largest |channel| of a sensitivity, as in its picture; the sum over the channels of an attribution,
    whose negative parts speak against the target.
    """
    if ATTRIBUTIONS[technique].sensitivity:
        return np.asarray(np.abs(attribution).max(axis=1))
    return np.asarray(attribution.sum(axis=1))


def score(backend: Backend, images: F32, target: Target, ranking: F32, steps: int) -> Quality:
    """The areas under the target's curves while pixels come and go, the most important first.

    At step k of `steps` the k / steps highest pixels of `ranking` (N, H, W) are uncovered on the blurred
    image (insertion), or set to grey (deletion). The area is the mean over the steps by the trapezoid rule:
    of the class's probability; for other targets of their value relative to the whole image's, NaN where
    that is 0.
    """
    curves = [
        _curves(backend, image, _measured(backend, target.of(i)), ranking[i], steps)
        for i, image in enumerate(images)
    ]
    if not target.classes:
        whole = values(backend, target, images)
        with np.errstate(divide="ignore", invalid="ignore"):
            curves = [
                np.where(value == 0, np.nan, curve / value)
                for curve, value in zip(curves, whole, strict=True)
            ]
    areas = np.asarray(curves)[:, :, 1:] + np.asarray(curves)[:, :, :-1]
    insertion, deletion = (areas.mean(axis=2) / 2).T.astype(np.float32)
    return Quality(insertion, deletion)


def _measured(backend: Backend, target: Target) -> Target:
    """The target whose value is measured: the probability of a class, or the target itself."""
    if not target.classes:
        return target
    return Target(PROBABILITIES, one_hot(target.classes, len(backend.stored.manifest.labels)), target.classes)


def _curves(backend: Backend, image: F32, measured: Target, ranking: F32, steps: int) -> F64:
    """The values of insertion and deletion at 0 to `steps`, (2, steps + 1)."""
    rank = np.empty(ranking.size, np.int64)
    rank[np.argsort(-ranking, axis=None, kind="stable")] = np.arange(ranking.size)
    changed = rank.reshape(ranking.shape) < (np.arange(steps + 1) * ranking.size // steps)[:, None, None]
    grey = np.full_like(image, GREY)
    curves = np.empty((2, steps + 1))
    for curve, before, after in zip(curves, (blurred(image), image), (image, grey), strict=True):
        for part in batches(steps + 1, ranking.size):
            curve[part] = values(backend, measured, np.where(changed[part, None], after, before))
    return curves


def blurred(image: F32) -> F32:
    """An image (3, H, W) under a Gaussian that leaves colours but no shapes; mirrored at its edges."""
    radius = max(1, round(BLUR * min(image.shape[1:])))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / radius) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        width = [(radius, radius) if each == axis else (0, 0) for each in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(image, width, "symmetric"), kernel.size, axis
        )
        image = (windows @ kernel).astype(np.float32)
    return image
