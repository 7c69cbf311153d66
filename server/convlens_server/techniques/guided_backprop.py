"""Guided backpropagation.

Springenberg, Dosovitskiy, Brox, Riedmiller: Striving for simplicity (2015), arXiv:1412.6806.
"""

from __future__ import annotations

from convlens.v1 import attribution_pb2
from convlens_models.graphs.autodiff import ReluRule
from convlens_server.techniques.base import F32, Attributed, Backend, Target


def guided_backprop(
    backend: Backend, images: F32, target: Target, params: attribution_pb2.GuidedBackprop
) -> Attributed:
    """dT/dx with ReLUs that pass the signal g where it and the activation are positive: g [y > 0] [g > 0]."""
    value, attribution = backend.gradient(images, target.layer, target.cotangent, ReluRule.GUIDED)
    return Attributed(target.value(value), attribution)
