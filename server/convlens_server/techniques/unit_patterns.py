"""The patterns that excite a unit, by guided backpropagation from its strongest position.

Springenberg, Dosovitskiy, Brox, Riedmiller: Striving for simplicity (2015), arXiv:1412.6806, figure 3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from convlens.v1 import unit_pb2
from convlens_models.graphs.autodiff import ReluRule
from convlens_server.backends.base import F32, Backend
from convlens_server.techniques.parts.units import box_of, locate


class UnitPattern(NamedTuple):
    """The pattern that a unit responds to in one image.

    Attributes:
        hit: the position where it is strongest, with its receptive field clipped to the image.
        pattern: guided backprop of the unit within that box, signed, (3, h, w).
        crop: the pixels of the box, (3, h, w) in [0, 1].
    """

    hit: unit_pb2.UnitHit
    pattern: F32
    crop: F32


def unit_patterns(backend: Backend, images: F32, layer: str, channel: int) -> list[UnitPattern]:
    """G(a[n, c, y*, x*]) within the receptive field of (y*, x*) = argmax a[n, c], for each image n.

    G is the gradient to the pixels whose ReLUs pass a signal g where it and the activation are positive.
    Outside of the box G is 0. A unit that is silent everywhere in an image has a pattern of zeros.

    Args:
        images: (N, 3, H, W) in [0, 1].

    Raises:
        InvalidArgument: the layer has no spatial axes, or no such channel.
    """
    value = backend.forward(images, [layer])[layer]
    hits = locate(value, backend.stored.manifest.layer(layer), channel, (images.shape[2], images.shape[3]))
    cotangent = np.zeros_like(value)
    for row, hit in zip(cotangent, hits, strict=True):
        row[channel, hit.y, hit.x] = 1
    _, signal = backend.gradient(images, layer, cotangent, ReluRule.GUIDED)
    boxes = [(slice(None), *box_of(hit).pixels) for hit in hits]
    return [
        UnitPattern(hit, row[box], image[box])
        for hit, row, image, box in zip(hits, signal, images, boxes, strict=True)
    ]
