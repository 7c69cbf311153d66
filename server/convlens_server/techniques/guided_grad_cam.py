"""Guided Grad-CAM.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra: Grad-CAM (2017), arXiv:1610.02391, section 3.2.
"""

from __future__ import annotations

from convlens.v1 import attribution_pb2
from convlens_server.techniques.base import F32, Attributed, Backend, Target
from convlens_server.techniques.grad_cam import grad_cam
from convlens_server.techniques.guided_backprop import guided_backprop


def guided_grad_cam(
    backend: Backend, images: F32, target: Target, params: attribution_pb2.GuidedGradCam
) -> Attributed:
    """Guided backpropagation times Grad-CAM at `layer`, pixel by pixel, (N, 3, H, W)."""
    cam = grad_cam(backend, images, target, attribution_pb2.GradCam(layer=params.layer))
    guided = guided_backprop(backend, images, target, attribution_pb2.GuidedBackprop())
    return Attributed(cam.values, guided.attribution * cam.attribution)
