"""The gradient times the pixel values.

Shrikumar, Greenside, Shcherbina, Kundaje: Not just a black box (2016), arXiv:1605.01713.
"""

from __future__ import annotations

from convlens.v1 import attribution_pb2
from convlens_models.autodiff import ReluRule
from convlens_server.engines.base import F32, Engine
from convlens_server.targets import Aim
from convlens_server.techniques.base import Attributed


def gradient_times_input(
    engine: Engine, images: F32, aim: Aim, params: attribution_pb2.GradientTimesInput
) -> Attributed:
    """x dT/dx, in units of the target: what T would lose to first order if the pixel were black."""
    value, gradient = engine.gradient(images, aim.layer, aim.cotangent, ReluRule.GRADIENT)
    return Attributed(aim.value(value), images * gradient)
