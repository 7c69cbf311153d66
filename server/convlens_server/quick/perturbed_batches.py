"""Many altered copies of one image through the network, in chunks of bounded memory.

A caller who leaves is noticed at every pass, so between any two chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convlens_models.graphs.autodiff import ReluRule
from convlens_server.backends.base import F32, Backend
from convlens_server.quick.targets import Target

CHUNK_PIXELS: Final = 400_000
"""8 images of 224 x 224: more at once make a pass no faster, and a gradient needs much memory for each."""

F64 = NDArray[np.float64]
Copies = Callable[[slice], F32]
"""The copies of a range of positions, (n, 3, H, W). Asked for in order, each once."""


def chunks(count: int, pixels: int) -> Iterator[slice]:
    """Ranges of about the same length that cover `count` copies of so many pixels each."""
    number = math.ceil(count / max(1, CHUNK_PIXELS // pixels))
    edges = [count * i // number for i in range(number + 1)]
    return map(slice, edges, edges[1:])


def mean_gradient(
    backend: Backend, target: Target, copies: Copies, weights: Sequence[float], shape: Any
) -> F64:
    """The sum of weight times gradient over the copies of one image, (3, H, W).

    Args:
        target: for that one image.
        weights: one a copy.
        shape: of the image.
    """
    total = np.zeros(shape)
    for part in chunks(len(weights), shape[-1] * shape[-2]):
        images = copies(part)
        cotangent = target.repeated(len(images)).cotangent
        _, gradients = backend.gradient(images, target.layer, cotangent, ReluRule.GRADIENT)
        total += np.einsum("n,nchw->chw", np.asarray(weights[part]), gradients)
    return total


def values(backend: Backend, target: Target, images: F32) -> F32:
    """The target's value for each of some images, given the target for one of them or for all."""
    target = target.repeated(len(images)) if len(target.cotangent) == 1 else target
    return target.value(backend.forward(images, [target.layer])[target.layer])
