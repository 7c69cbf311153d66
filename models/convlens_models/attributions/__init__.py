"""Attributions that are sums over perturbed copies of an image: quick calls and jobs run the same code.

    for part in batches(kind.copies(params, size), pixels):
        totals = perturbation.more(totals, part, rng)
    map_ = perturbation.map(totals)

A quick call goes through the loop at once (`perturbation.compute`). A job stops after each batch and keeps
the totals and the generator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from convlens_models.attributions.integrated_gradients import IntegratedGradients
from convlens_models.attributions.occlusion import Occlusion
from convlens_models.attributions.perturbation import Perturbation
from convlens_models.attributions.rise import Rise
from convlens_models.attributions.smoothgrad import SmoothGrad

PERTURBATIONS: Final[Mapping[str, type[Perturbation]]] = {
    "integrated_gradients": IntegratedGradients,
    "smoothgrad": SmoothGrad,
    "occlusion": Occlusion,
    "rise": Rise,
}
"""By the technique's arm in `Attribution`."""
