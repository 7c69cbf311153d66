"""Integrated gradients.

Sundararajan, Taly, Yan: Axiomatic attribution for deep networks (2017), arXiv:1703.01365.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convlens_models.attributions.perturbation import BOTH_WAYS, Attributed, Perturbation, Totals
from convlens_models.attributions.perturbed_batches import gradient_sum, values
from convlens_models.attributions.targets import Target
from convlens_models.backend import F32, F64, Backend


class IntegratedGradients(Perturbation):
    """(x - b) times the integral over a in [0, 1] of dT/dx at b + a (x - b), in units of the target.

    The integral by Gauss-Legendre quadrature of `steps` points, b a uniform image. The attributions of an
    image sum to T(x) - T(b), up to the completeness residual, which comes with them.
    """

    way, extra, grows = BOTH_WAYS, 2, "steps"

    def __init__(self, backend: Backend, image: F32, target: Target, params: Any) -> None:
        super().__init__(backend, image, target, params)
        nodes, weights = np.polynomial.legendre.leggauss(params.steps)
        self._alphas = ((nodes + 1) / 2).astype(np.float32)[:, None, None, None]
        self._shares = (weights / 2).tolist()

    @staticmethod
    def copies(params: Any, size: tuple[int, int]) -> int:
        """One a point of the quadrature."""
        return int(params.steps)

    def empty(self) -> Totals:
        """The integral of the gradient, (3, H, W)."""
        return {"integral": np.zeros(self.image.shape)}

    def more(self, totals: Totals, part: slice, rng: np.random.Generator) -> Totals:
        """The integral with the next images on the straight line from the baseline."""
        baseline = np.float32(self.params.baseline)
        images = baseline + self._alphas[part] * (self.image - baseline)
        more = gradient_sum(self.backend, self.target, images, self._shares[part])
        return {"integral": totals["integral"] + more}

    def map(self, totals: Totals) -> F64:
        """The integral."""
        return totals["integral"]

    @classmethod
    def finish(cls, backend: Backend, images: F32, target: Target, maps: F64, params: Any) -> Attributed:
        """The integrals times the way from the baseline, and how far their sums are off."""
        baseline = np.float32(params.baseline)
        attribution = maps * (images - baseline)
        value = values(backend, target, images)
        change = value - values(backend, target, np.full_like(images, baseline))
        residual = attribution.sum(axis=(1, 2, 3)) - change
        return Attributed(value, attribution.astype(np.float32), residual.astype(np.float32))
