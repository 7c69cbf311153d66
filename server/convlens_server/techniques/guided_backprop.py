"""Guided backpropagation.

Springenberg, Dosovitskiy, Brox, Riedmiller: Striving for simplicity (2015), arXiv:1412.6806.
"""

from __future__ import annotations

from convlens.v1 import attribution_pb2
from convlens_models.autodiff import ReluRule
from convlens_server.engines.base import F32, Engine
from convlens_server.targets import Aim
from convlens_server.techniques.base import Attributed


def guided_backprop(
    engine: Engine, images: F32, aim: Aim, params: attribution_pb2.GuidedBackprop
) -> Attributed:
    """dT/dx with ReLUs that pass the signal g where it and the activation are positive: g [y > 0] [g > 0]."""
    value, attribution = engine.gradient(images, aim.layer, aim.cotangent, ReluRule.GUIDED)
    return Attributed(aim.value(value), attribution)
