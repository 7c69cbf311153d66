"""The deconvolutional network's signal.

Zeiler, Fergus: Visualizing and understanding convolutional networks (2014), arXiv:1311.2901.
"""

from __future__ import annotations

from convlens.v1 import attribution_pb2
from convlens_models.graphs.autodiff import ReluRule
from convlens_server.techniques.base import F32, Attributed, Backend, Target


def deconvnet(backend: Backend, images: F32, target: Target, params: attribution_pb2.Deconvnet) -> Attributed:
    """dT/dx with ReLUs that pass the signal g where it is positive, whatever the activation: g [g > 0]."""
    value, attribution = backend.gradient(images, target.layer, target.cotangent, ReluRule.DECONVNET)
    return Attributed(target.value(value), attribution)
