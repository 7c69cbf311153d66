"""The plain gradient of a target to the pixels.

Simonyan, Vedaldi, Zisserman: Deep inside convolutional networks (2014), arXiv:1312.6034.
"""

from __future__ import annotations

from convlens.v1 import attribution_pb2
from convlens_models.autodiff import ReluRule
from convlens_server.engines.base import F32, Engine
from convlens_server.targets import Aim
from convlens_server.techniques.base import Attributed


def gradient(engine: Engine, images: F32, aim: Aim, params: attribution_pb2.Gradient) -> Attributed:
    """dT/dx: ReLUs pass the signal g where the activation was positive: g [y > 0]."""
    value, attribution = engine.gradient(images, aim.layer, aim.cotangent, ReluRule.GRADIENT)
    return Attributed(aim.value(value), attribution)
