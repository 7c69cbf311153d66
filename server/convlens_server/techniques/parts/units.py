"""The position of each image where a unit is strongest, with what it sees there."""

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
    return [hit(layer, *place, size) for place in strongest(channel_map(value, layer.name, channel))]


def hit(layer: Layer, value: float, y: int, x: int, size: Size) -> unit_pb2.UnitHit:
    """A position of a layer with its value, and its receptive field clipped to an image of `size`."""
    box = receptive_field(layer, y, x, size).clipped(size)
    return unit_pb2.UnitHit(value=value, y=y, x=x, box=unit_pb2.Box(**box._asdict()))


def box_of(hit: unit_pb2.UnitHit) -> Box:
    """The box of a hit, to index images with."""
    return Box(hit.box.left, hit.box.top, hit.box.right, hit.box.bottom)
