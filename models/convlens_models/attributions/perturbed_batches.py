"""Perturbed copies of one image that go through the network in batches of bounded memory.

A caller who leaves is noticed at every pass, so between any two batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from convlens_models.attributions.targets import Target
from convlens_models.backend import F32, F64, Backend
from convlens_models.graphs.autodiff import ReluRule

BATCH_PIXELS: Final = 400_000
"""8 images of 224 x 224: more at once make a pass no faster, and a gradient needs much memory for each."""


def batches(count: int, pixels: int) -> Iterator[slice]:
    """Ranges of about the same length that cover `count` images of so many pixels each."""
    number = math.ceil(count / max(1, BATCH_PIXELS // pixels))
    edges = [count * i // number for i in range(number + 1)]
    return map(slice, edges, edges[1:])


def gradient_sum(backend: Backend, target: Target, images: F32, weights: Sequence[float]) -> F64:
    """The sum of weight times gradient over a batch of perturbed images, (3, H, W).

    Args:
        target: the target of the image that they are made of.
        images: (n, 3, H, W).
        weights: the weight of each of them.
    """
    cotangent = target.repeated(len(images)).cotangent
    _, gradients = backend.gradient(images, target.layer, cotangent, ReluRule.GRADIENT)
    total: F64 = np.einsum("n,nchw->chw", np.asarray(weights), gradients)
    return total


def values(backend: Backend, target: Target, images: F32) -> F32:
    """The target's value for each of the images, (N,); the target is that of one image or of all."""
    target = target.repeated(len(images)) if len(target.cotangent) == 1 else target
    return target.value(backend.forward(images, [target.layer])[target.layer])
