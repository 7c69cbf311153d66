"""The gradient times the pixel values.

Shrikumar, Greenside, Shcherbina, Kundaje: Not just a black box (2016), arXiv:1605.01713.
"""

from __future__ import annotations

from convlens.v1 import attribution_pb2
from convlens_models.graphs.autodiff import ReluRule
from convlens_server.techniques.base import F32, Attributed, Backend, Target


def gradient_times_input(
    backend: Backend, images: F32, target: Target, params: attribution_pb2.GradientTimesInput
) -> Attributed:
    """x dT/dx, in units of the target: what T would lose to first order if the pixel were black."""
    value, gradient = backend.gradient(images, target.layer, target.cotangent, ReluRule.GRADIENT)
    return Attributed(target.value(value), images * gradient)
