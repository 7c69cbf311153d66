"""Grad-CAM.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra: Grad-CAM (2017), arXiv:1610.02391.
"""

from __future__ import annotations

import numpy as np

from convlens.errors import InvalidArgument
from convlens.v1 import attribution_pb2
from convlens_models.attributions.resampling import bilinear
from convlens_models.manifest import Manifest
from convlens_server.techniques.base import F32, Attributed, Backend, Target


def grad_cam(backend: Backend, images: F32, target: Target, params: attribution_pb2.GradCam) -> Attributed:
    """ReLU(sum over k of w_k A_k), w_k the mean over the positions of dT/dA_k, scaled up bilinearly.

    A is the value of `layer`; of the last layer before the target's with a map, if it is empty. In units of
    the target times those of the layer's value; (N, 1, H, W), not negative. The map is laid over the
    whole image, edge to edge, wherever exactly the layer's receptive fields lie.

    Raises:
        InvalidArgument: a layer without a map, or that the target does not depend on.
    """
    layer = params.layer or _last_map(backend.stored.manifest, target.layer)
    try:
        value, inner, gradient = backend.inner_gradient(images, target.layer, target.cotangent, layer)
    except InvalidArgument as error:
        allowed = f"a layer before {target.layer!r} that it is computed from"
        raise InvalidArgument.of("layer", layer, allowed) from error
    if inner.ndim != 4:
        raise InvalidArgument.of("layer", layer, f"a layer with a map; it is {list(inner.shape[1:])}")
    weights = gradient.mean(axis=(2, 3), dtype=np.float64)
    coarse = np.maximum(np.einsum("nk,nkhw->nhw", weights, inner), 0)
    cam = bilinear(coarse, *images.shape[2:])[:, None]
    return Attributed(target.value(value), cam.astype(np.float32))


def _last_map(manifest: Manifest, target: str) -> str:
    """The last layer before that of the target with more than one position."""
    names = [layer.name for layer in manifest.layers]
    before = manifest.layers[: names.index(target)]
    maps = [layer.name for layer in before if len(layer.shape) == 3 and max(layer.shape[1:]) > 1]
    if not maps:
        raise InvalidArgument.of("layer", "", f"given, as no layer with a map comes before {target!r}")
    return maps[-1]
