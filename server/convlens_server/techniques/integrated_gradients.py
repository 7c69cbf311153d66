"""Integrated gradients.

Sundararajan, Taly, Yan: Axiomatic attribution for deep networks (2017), arXiv:1703.01365.
"""

from __future__ import annotations

import numpy as np

from convlens.v1 import attribution_pb2
from convlens_server.techniques.base import F32, F64, Attributed, Backend, Target
from convlens_server.techniques.parts.perturbed_batches import PerturbedBatch, mean_gradient, values


def integrated_gradients(
    backend: Backend, images: F32, target: Target, params: attribution_pb2.IntegratedGradients
) -> Attributed:
    """(x - b) times the integral over a in [0, 1] of dT/dx at b + a (x - b), in units of the target.

    The integral by Gauss-Legendre quadrature of `steps` points, b a uniform image. The attributions of an
    image sum to T(x) - T(b), up to the completeness residual, which comes with them.
    """
    nodes, weights = np.polynomial.legendre.leggauss(params.steps)
    alphas, shares = (nodes + 1) / 2, weights / 2
    baseline = np.float32(params.baseline)
    attribution = np.empty(images.shape)
    for i, image in enumerate(images):
        path = _path(image - baseline, baseline, alphas)
        attribution[i] = mean_gradient(backend, target.of(i), path, shares.tolist(), image.shape)
    attribution *= images - baseline
    value = values(backend, target, images)
    change = value - values(backend, target, np.full_like(images, baseline))
    residual = attribution.sum(axis=(1, 2, 3)) - change
    return Attributed(value, attribution.astype(np.float32), residual.astype(np.float32))


def _path(difference: F32, baseline: np.float32, alphas: F64) -> PerturbedBatch:
    """The images on the straight line from the baseline."""
    steps = alphas.astype(np.float32)[:, None, None, None]
    return lambda part: baseline + steps[part] * difference
