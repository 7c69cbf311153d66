"""Insertion and deletion: two measures of how well a map ranks the pixels.

Petsiuk, Das, Saenko: RISE: Randomized input sampling for explanation (2018), arXiv:1806.07421, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Final, Literal, NamedTuple

import numpy as np

from convlens.v1 import attribution_pb2
from convlens_models.attributions.perturbed_batches import batches, values
from convlens_models.attributions.targets import Target, one_hot
from convlens_models.manifest import PROBABILITIES
from convlens_server.backends.base import F32, F64, Backend
from convlens_server.techniques import ATTRIBUTIONS

GREY: Final = 0.5
SHARE: Final = 5 / 224
"""Deviation and radius of the scaled blur, as a share of the image's smaller side."""
SIDE, DEVIATION = 11, 5
"""Of the authors' kernel, in pixels at any size."""


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


def resolved(asked: attribution_pb2.Quality) -> attribution_pb2.Quality:
    """Those parameters with nothing left to defaults."""
    return attribution_pb2.Quality(
        steps=asked.steps,
        insertion_start=asked.insertion_start or attribution_pb2.INSERTION_START_PUBLISHED,
        deletion_end=asked.deletion_end or attribution_pb2.DELETION_END_MEAN,
    )


def score(
    backend: Backend, images: F32, target: Target, ranking: F32, params: attribution_pb2.Quality
) -> Quality:
    """The areas under the target's curves while pixels come and go, the most important first.

    At step k of the steps the k / steps highest pixels of `ranking` (N, H, W) are uncovered on the blurred
    image (insertion), or set to one colour (deletion). The area is the mean over the steps by the trapezoid
    rule: of the class's probability; for other targets of their value relative to the whole image's, NaN
    where that is 0. Of pixels that rank alike the first comes first; the authors' code leaves that open.

    Args:
        params: nothing left to defaults.
    """
    curves = [
        _curves(backend, image, _measured(backend, target.of(i)), ranking[i], params)
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


def _curves(
    backend: Backend, image: F32, measured: Target, ranking: F32, params: attribution_pb2.Quality
) -> F64:
    """The values of insertion and deletion at 0 to `steps`, (2, steps + 1)."""
    steps, mean = params.steps, np.asarray(backend.stored.manifest.mean, np.float32)[:, None, None]
    rank = np.empty(ranking.size, np.int64)
    rank[np.argsort(-ranking, axis=None, kind="stable")] = np.arange(ranking.size)
    changed = rank.reshape(ranking.shape) < (np.arange(steps + 1) * ranking.size // steps)[:, None, None]
    start, end = BLURS[params.insertion_start](image, mean), COLOURS[params.deletion_end](image, mean)
    curves = np.empty((2, steps + 1))
    for curve, before, after in zip(curves, (start, image), (image, end), strict=True):
        for part in batches(steps + 1, ranking.size):
            curve[part] = values(backend, measured, np.where(changed[part, None], after, before))
    return curves


def published_blur(image: F32, mean: F32) -> F32:
    """An image (3, H, W) as the authors' code blurs it; around it lies `mean` (3, 1, 1), the network's zero.

    That code convolves the normalised image, with zeros around it, with `folded_gaussian`.
    """
    return mean + _convolved(image - mean, folded_gaussian(), "constant")


def scaled_blur(image: F32, _: F32) -> F32:
    """An image (3, H, W) under a Gaussian that leaves colours but no shapes; mirrored at its edges."""
    radius = max(1, round(SHARE * min(image.shape[1:])))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / radius) ** 2)
    return _convolved(image, kernel / kernel.sum(), "symmetric")


@cache
def folded_gaussian() -> F64:
    """One axis of the authors' kernel, (11): a Gaussian of deviation 5, cut at 4 deviations.

    It was made by blurring a point in a picture of 11 x 11, whose edges mirror what goes beyond them: so the
    tails come back, again and again, and the kernel is nearly flat.
    """
    offsets = np.arange(-4 * DEVIATION, 4 * DEVIATION + 1)
    gaussian = np.exp(-0.5 * (offsets / DEVIATION) ** 2)
    there = (offsets + SIDE // 2) % (2 * SIDE)  # Mirrored, places repeat after two sides.
    kernel = np.bincount(np.minimum(there, 2 * SIDE - 1 - there), gaussian, minlength=SIDE)
    return np.asarray(kernel / kernel.sum())


def _convolved(image: F32, kernel: F64, edges: Literal["constant", "symmetric"]) -> F32:
    """An image (3, H, W) under a kernel that is the same, and symmetric, along both axes."""
    radius = kernel.size // 2
    for axis in (1, 2):
        width = [(radius, radius) if each == axis else (0, 0) for each in range(3)]
        padded = np.pad(image, width, edges)
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.size, axis)
        image = (windows @ kernel).astype(np.float32)
    return image


BLURS: Final[Mapping[int, Callable[[F32, F32], F32]]] = {
    attribution_pb2.INSERTION_START_PUBLISHED: published_blur,
    attribution_pb2.INSERTION_START_SCALED: scaled_blur,
}
COLOURS: Final[Mapping[int, Callable[[F32, F32], F32]]] = {
    attribution_pb2.DELETION_END_MEAN: lambda image, mean: np.broadcast_to(mean, image.shape),
    attribution_pb2.DELETION_END_GREY: lambda image, _: np.full_like(image, GREY),
}
