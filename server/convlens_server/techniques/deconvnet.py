"""The deconvolutional network's signal.

Zeiler, Fergus: Visualizing and understanding convolutional networks (2014), arXiv:1311.2901.
"""

from __future__ import annotations

from convlens.v1 import attribution_pb2
from convlens_models.autodiff import ReluRule
from convlens_server.engines.base import F32, Engine
from convlens_server.targets import Aim
from convlens_server.techniques.base import Attributed


def deconvnet(engine: Engine, images: F32, aim: Aim, params: attribution_pb2.Deconvnet) -> Attributed:
    """dT/dx with ReLUs that pass the signal g where it is positive, whatever the activation: g [g > 0]."""
    value, attribution = engine.gradient(images, aim.layer, aim.cotangent, ReluRule.DECONVNET)
    return Attributed(aim.value(value), attribution)
