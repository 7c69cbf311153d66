"""The receptive field of a unit as it is in practice, by discrepancy maps.

Zhou, Khosla, Lapedriza, Oliva, Torralba: Object detectors emerge in deep scene CNNs (2015), arXiv:1412.6856.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from convlens.v1 import unit_pb2
from convlens_models.measures.discrepancy import Patches, average, empirical_size, probe
from convlens_models.measures.units import channel_map, strongest
from convlens_server.backends.base import F32, Backend


class Discrepancies(NamedTuple):
    """The discrepancy maps of a unit, which show where it looks.

    Attributes:
        value: the value of the layer for the images as they are, (N, C, H', W').
        maps: the mean |change| of the unit under the occlusions that cover each pixel, (N, H, W).
        field: the average of the maps, recentred on the unit, over its theoretical receptive field, (S, S).
        empirical_size: the side of the square with the area above the threshold, in pixels.
    """

    value: F32
    maps: F32
    field: F32
    empirical_size: float


def discrepancy(
    backend: Backend, images: F32, layer: str, channel: int, params: unit_pb2.Discrepancy
) -> Discrepancies:
    """Occludes each image by patches of random pixels, and sees which of them change the unit.

    The unit is that of the channel's strongest position in each image. `convlens_models.measures.discrepancy`
    has the formulas.

    Raises:
        InvalidArgument: the layer has no spatial axes, no such channel, or a patch that does not fit.
    """
    patches = Patches(params.patch, params.stride, params.seed)
    patches.check((images.shape[2], images.shape[3]))
    manifest = backend.stored.manifest.read_at([layer])

    def forward(batch: F32) -> F32:
        return backend.forward(batch, [layer])[layer][:, channel]

    value = backend.forward(images, [layer])[layer]
    hits = strongest(channel_map(value, layer, channel))
    probes = [
        probe(
            forward,
            image,
            hit,
            number=number,
            manifest=manifest,
            layer=manifest.layer(layer),
            patches=patches,
        )
        for number, (image, hit) in enumerate(zip(images, hits, strict=True))
    ]
    maps = [
        item.discrepancy_map(np.concatenate([item.changes(forward, part) for part in item.passes()]))
        for item in probes
    ]
    field = average(probes, maps)
    return Discrepancies(value, np.stack(maps), field, empirical_size(field, params.threshold))
