"""The plain gradient of a target to the pixels.

Simonyan, Vedaldi, Zisserman: Deep inside convolutional networks (2014), arXiv:1312.6034.
"""

from __future__ import annotations

from convlens.v1 import attribution_pb2
from convlens_models.graphs.autodiff import ReluRule
from convlens_server.techniques.base import F32, Attributed, Backend, Target


def gradient(backend: Backend, images: F32, target: Target, params: attribution_pb2.Gradient) -> Attributed:
    """dT/dx: ReLUs pass the signal g where the activation was positive: g [y > 0]."""
    value, attribution = backend.gradient(images, target.layer, target.cotangent, ReluRule.GRADIENT)
    return Attributed(target.value(value), attribution)
