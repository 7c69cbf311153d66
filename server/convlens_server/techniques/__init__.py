"""The quick techniques, by their arm of the request's `technique` oneof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from convlens_server.techniques.base import Attack, Attribution
from convlens_server.techniques.bim import bim
from convlens_server.techniques.deconvnet import deconvnet
from convlens_server.techniques.fgsm import fgsm
from convlens_server.techniques.grad_cam import grad_cam
from convlens_server.techniques.gradient import gradient
from convlens_server.techniques.gradient_times_input import gradient_times_input
from convlens_server.techniques.guided_backprop import guided_backprop
from convlens_server.techniques.guided_grad_cam import guided_grad_cam
from convlens_server.techniques.integrated_gradients import integrated_gradients
from convlens_server.techniques.occlusion import occlusion
from convlens_server.techniques.pgd import pgd
from convlens_server.techniques.rise import rise
from convlens_server.techniques.smoothgrad import smoothgrad

ATTRIBUTIONS: Final[Mapping[str, Attribution]] = {
    "gradient": Attribution(gradient, sensitivity=True),
    "guided_backprop": Attribution(guided_backprop, sensitivity=True),
    "deconvnet": Attribution(deconvnet, sensitivity=True),
    "gradient_times_input": Attribution(gradient_times_input),
    "integrated_gradients": Attribution(integrated_gradients),
    "smoothgrad": Attribution(smoothgrad, sensitivity=True),
    "grad_cam": Attribution(grad_cam),
    "guided_grad_cam": Attribution(guided_grad_cam, sensitivity=True),
    "occlusion": Attribution(occlusion),
    "rise": Attribution(rise),
}
ATTACKS: Final[Mapping[str, Attack]] = {
    "fgsm": fgsm,
    "bim": bim,
    "pgd": pgd,
}
