"""The quick techniques, by their arm of the request's `technique` oneof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from convlens_server.techniques.base import BOTH_WAYS, Attack, Attribution, Cost
from convlens_server.techniques.bim import bim
from convlens_server.techniques.deconvnet import deconvnet
from convlens_server.techniques.fgsm import fgsm
from convlens_server.techniques.grad_cam import grad_cam
from convlens_server.techniques.gradient import gradient
from convlens_server.techniques.gradient_times_input import gradient_times_input
from convlens_server.techniques.guided_backprop import guided_backprop
from convlens_server.techniques.guided_grad_cam import guided_grad_cam
from convlens_server.techniques.integrated_gradients import integrated_gradients
from convlens_server.techniques.occlusion import number_of_squares, occlusion
from convlens_server.techniques.pgd import pgd
from convlens_server.techniques.rise import rise
from convlens_server.techniques.smoothgrad import smoothgrad

ONE_GRADIENT: Final = Cost(lambda *_: BOTH_WAYS)

ATTRIBUTIONS: Final[Mapping[str, Attribution]] = {
    "gradient": Attribution(gradient, ONE_GRADIENT, sensitivity=True),
    "guided_backprop": Attribution(guided_backprop, ONE_GRADIENT, sensitivity=True),
    "deconvnet": Attribution(deconvnet, ONE_GRADIENT, sensitivity=True),
    "gradient_times_input": Attribution(gradient_times_input, ONE_GRADIENT),
    "integrated_gradients": Attribution(
        integrated_gradients, Cost(lambda params, _: BOTH_WAYS * params.steps + 2, "steps")
    ),
    "smoothgrad": Attribution(
        smoothgrad, Cost(lambda params, _: BOTH_WAYS * params.samples + 1, "samples"), sensitivity=True
    ),
    "grad_cam": Attribution(grad_cam, ONE_GRADIENT),
    "guided_grad_cam": Attribution(guided_grad_cam, Cost(lambda *_: 2 * BOTH_WAYS), sensitivity=True),
    "occlusion": Attribution(
        occlusion, Cost(lambda params, size: number_of_squares(params, size) + 1, "stride")
    ),
    "rise": Attribution(rise, Cost(lambda params, _: params.masks + 1, "masks")),
}
ATTACKS: Final[Mapping[str, Attack]] = {
    "fgsm": Attack(fgsm, ONE_GRADIENT),
    "bim": Attack(bim, Cost(lambda params, _: BOTH_WAYS * params.steps, "steps")),
    "pgd": Attack(pgd, Cost(lambda params, _: params.restarts * (BOTH_WAYS * params.steps + 1), "steps")),
}
