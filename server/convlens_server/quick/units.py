"""Where in each image a unit is strongest, and what it sees there."""

from __future__ import annotations

from convlens.v1 import unit_pb2
from convlens_models.manifest import Layer
from convlens_models.measures.receptive_field import Box, Size, receptive_field
from convlens_models.measures.units import channel_map, strongest
from convlens_server.backends.base import F32


def locate(value: F32, layer: Layer, channel: int, size: Size) -> list[unit_pb2.UnitHit]:
    """The strongest position of a channel in each image, with its receptive field clipped to the image.

    Args:
        value: of the layer, (N, C, H', W').
        size: of the images, (height, width).

    Raises:
        InvalidArgument: the layer has no spatial axes, or no such channel.
    """
    return [
        unit_pb2.UnitHit(
            value=hit.value,
            y=hit.y,
            x=hit.x,
            box=unit_pb2.Box(**receptive_field(layer, hit.y, hit.x, size).clipped(size)._asdict()),
        )
        for hit in strongest(channel_map(value, layer.name, channel))
    ]


def box_of(hit: unit_pb2.UnitHit) -> Box:
    """The box of a hit, to index images with."""
    return Box(hit.box.left, hit.box.top, hit.box.right, hit.box.bottom)
