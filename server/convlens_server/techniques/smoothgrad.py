"""SmoothGrad.

Smilkov, Thorat, Kim, Viegas, Wattenberg: SmoothGrad (2017), arXiv:1706.03825.
"""

from __future__ import annotations

import numpy as np

from convlens.v1 import attribution_pb2
from convlens_server.techniques.base import F32, Attributed, Backend, Target
from convlens_server.techniques.parts.perturbed_batches import PerturbedBatch, mean_gradient, values


def smoothgrad(
    backend: Backend, images: F32, target: Target, params: attribution_pb2.SmoothGrad
) -> Attributed:
    """The mean of dT/dx over `samples` images x + n, n from N(0, s^2), s = `sigma` (max x - min x).

    The images are not clipped to [0, 1]. Each image sees the noise that it would see alone.
    """
    weights = [1 / params.samples] * params.samples
    attribution = np.empty_like(images)
    for i, image in enumerate(images):
        noisy = _noisy(image, params.sigma, params.seed)
        attribution[i] = mean_gradient(backend, target.of(i), noisy, weights, image.shape)
    return Attributed(values(backend, target, images), attribution)


def _noisy(image: F32, sigma: float, seed: int) -> PerturbedBatch:
    deviation = np.float32(sigma) * np.ptp(image)
    rng = np.random.default_rng(seed)

    def perturbed(part: slice) -> F32:
        noise = rng.standard_normal((part.stop - part.start, *image.shape), np.float32)
        return image + deviation * noise

    return perturbed
