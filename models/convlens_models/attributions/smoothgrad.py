"""SmoothGrad.

Smilkov, Thorat, Kim, Viegas, Wattenberg: SmoothGrad (2017), arXiv:1706.03825.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convlens_models.attributions.perturbation import BOTH_WAYS, Attributed, Perturbation, Totals
from convlens_models.attributions.perturbed_batches import gradient_sum, values
from convlens_models.attributions.targets import Target
from convlens_models.backend import F32, F64, Backend


class SmoothGrad(Perturbation):
    """The mean of dT/dx over `samples` images x + n, n from N(0, s^2), s = `sigma` (max x - min x).

    The images are not clipped to [0, 1].
    """

    way, grows, sensitivity = BOTH_WAYS, "samples", True

    @staticmethod
    def copies(params: Any, size: tuple[int, int]) -> int:
        """One a sample."""
        return int(params.samples)

    def empty(self) -> Totals:
        """The gradients over the number of samples, (3, H, W)."""
        return {"mean": np.zeros(self.image.shape)}

    def more(self, totals: Totals, part: slice, rng: np.random.Generator) -> Totals:
        """The mean with the next samples."""
        deviation = np.float32(self.params.sigma) * np.ptp(self.image)
        count = part.stop - part.start
        noisy = self.image + deviation * rng.standard_normal((count, *self.image.shape), np.float32)
        weights = [1 / self.params.samples] * count
        return {"mean": totals["mean"] + gradient_sum(self.backend, self.target, noisy, weights)}

    def map(self, totals: Totals) -> F64:
        """The gradient's mean over the noisy copies."""
        return totals["mean"]

    @classmethod
    def finish(cls, backend: Backend, images: F32, target: Target, maps: F64, params: Any) -> Attributed:
        """The maps as they are."""
        return Attributed(values(backend, target, images), maps.astype(np.float32))
