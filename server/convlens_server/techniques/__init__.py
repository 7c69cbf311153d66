"""The quick techniques, by their arm of the request's `technique` oneof.

Those that are sums over perturbed copies stand in `convlens_models.attributions`: jobs run them, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from convlens_models.attributions import PERTURBATIONS
from convlens_models.attributions.perturbation import Perturbation, compute
from convlens_server.techniques.base import BOTH_WAYS, Attack, Attribution, Cost
from convlens_server.techniques.bim import bim
from convlens_server.techniques.deconvnet import deconvnet
from convlens_server.techniques.fgsm import fgsm
from convlens_server.techniques.grad_cam import grad_cam
from convlens_server.techniques.gradient import gradient
from convlens_server.techniques.gradient_times_input import gradient_times_input
from convlens_server.techniques.guided_backprop import guided_backprop
from convlens_server.techniques.guided_grad_cam import guided_grad_cam
from convlens_server.techniques.pgd import pgd

ONE_GRADIENT: Final = Cost(lambda *_: BOTH_WAYS)


def _summed(kind: type[Perturbation]) -> Attribution:
    """The row of a technique that is a sum over perturbed copies."""
    cost = Cost(lambda params, size: kind.way * kind.copies(params, size) + kind.extra, kind.grows)
    return Attribution(compute(kind), cost, kind.sensitivity)


ATTRIBUTIONS: Final[Mapping[str, Attribution]] = {
    "gradient": Attribution(gradient, ONE_GRADIENT, sensitivity=True),
    "guided_backprop": Attribution(guided_backprop, ONE_GRADIENT, sensitivity=True),
    "deconvnet": Attribution(deconvnet, ONE_GRADIENT, sensitivity=True),
    "gradient_times_input": Attribution(gradient_times_input, ONE_GRADIENT),
    "grad_cam": Attribution(grad_cam, ONE_GRADIENT),
    "guided_grad_cam": Attribution(guided_grad_cam, Cost(lambda *_: 2 * BOTH_WAYS), sensitivity=True),
    **{name: _summed(kind) for name, kind in PERTURBATIONS.items()},
}
ATTACKS: Final[Mapping[str, Attack]] = {
    "fgsm": Attack(fgsm, ONE_GRADIENT),
    "bim": Attack(bim, Cost(lambda params, _: BOTH_WAYS * params.steps, "steps")),
    "pgd": Attack(pgd, Cost(lambda params, _: params.restarts * (BOTH_WAYS * params.steps + 1), "steps")),
}
