"""Where a unit looks: the part of the image that its value depends on."""

from __future__ import annotations

from typing import NamedTuple

from convlens_models.manifest import Layer

Size = tuple[int, int]


class Box(NamedTuple):
    """A rectangle of pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    def clipped(self, size: Size) -> Box:
        """The part within an image of `size` (height, width); at least the pixel that is nearest to it."""
        height, width = size
        left, top = min(max(self.left, 0), width - 1), min(max(self.top, 0), height - 1)
        return Box(left, top, max(min(self.right, width), left + 1), max(min(self.bottom, height), top + 1))

    def moved_into(self, size: Size) -> Box:
        """The box moved so that it lies in an image of `size` (height, width); clipped where it is larger."""
        height, width = size
        down = max(0, -self.top) or min(0, height - self.bottom)
        right = max(0, -self.left) or min(0, width - self.right)
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down).clipped(size)

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Rows and columns, to index the last two axes of an image with."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def receptive_field(layer: Layer, y: int, x: int, size: Size) -> Box:
    """The theoretical receptive field of the unit at row `y` and column `x` of a layer's map.

    Along each axis it has `receptive_field` pixels, the first at `receptive_field_start + stride * position
    - (receptive_field - 1) / 2`; where the pads follow from the size, its remainder decides, as
    `Layer.receptive_field_starts` has it. It may reach beyond the image of `size` (height, width), where the
    network sees padding: `Box.clipped` gives the part with pixels. A position that sees everything (stride 0)
    has the whole image.
    """
    if layer.stride == 0:
        return Box(0, 0, size[1], size[0])
    top, left = (_first(layer, side) + layer.stride * at for side, at in zip(size, (y, x), strict=True))
    return Box(left, top, left + layer.receptive_field, top + layer.receptive_field)


def _first(layer: Layer, side: int) -> int:
    """The first pixel that position 0 sees along an axis of `side` pixels."""
    starts = layer.receptive_field_starts
    start = starts[side % layer.stride] if starts else layer.receptive_field_start
    return round(start - (layer.receptive_field - 1) / 2)


def theoretical_size(layer: Layer, size: Size) -> int:
    """Side of the receptive field in pixels; where positions see everything, the longer side of the image."""
    return layer.receptive_field if layer.stride else max(size)
