"""Perturbed copies of one image that go through the network in batches of bounded memory.

A caller who leaves is noticed at every pass, so between any two batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from convlens_models.graphs.autodiff import ReluRule
from convlens_server.backends.base import F32, F64, Backend
from convlens_server.techniques.parts.targets import Target

BATCH_PIXELS: Final = 400_000
"""8 images of 224 x 224: more at once make a pass no faster, and a gradient needs much memory for each."""

PerturbedBatch = Callable[[slice], F32]
"""Gives the perturbed images of a range of positions, (n, 3, H, W); called in order, once a position."""


def batches(count: int, pixels: int) -> Iterator[slice]:
    """Ranges of about the same length that cover `count` images of so many pixels each."""
    number = math.ceil(count / max(1, BATCH_PIXELS // pixels))
    edges = [count * i // number for i in range(number + 1)]
    return map(slice, edges, edges[1:])


def mean_gradient(
    backend: Backend, target: Target, perturbed: PerturbedBatch, weights: Sequence[float], shape: Any
) -> F64:
    """The sum of weight times gradient over the perturbed images, (3, H, W).

    Args:
        target: the target of the image that they are made of.
        perturbed: gives the images.
        weights: the weight of each of them.
        shape: the shape of the image, (3, H, W).
    """
    total = np.zeros(shape)
    for part in batches(len(weights), shape[-1] * shape[-2]):
        images = perturbed(part)
        cotangent = target.repeated(len(images)).cotangent
        _, gradients = backend.gradient(images, target.layer, cotangent, ReluRule.GRADIENT)
        total += np.einsum("n,nchw->chw", np.asarray(weights[part]), gradients)
    return total


def values(backend: Backend, target: Target, images: F32) -> F32:
    """The target's value for each of the images, (N,); the target is that of one image or of all."""
    target = target.repeated(len(images)) if len(target.cotangent) == 1 else target
    return target.value(backend.forward(images, [target.layer])[target.layer])
