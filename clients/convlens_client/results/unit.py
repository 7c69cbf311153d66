"""What single units respond to, and where in an image they look."""

from __future__ import annotations

import dataclasses

from convlens_client.results.array import Array


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


@dataclasses.dataclass(frozen=True, slots=True)
class UnitHit:
    """Where a unit is strongest in an image: value, row and column in its map, receptive field in pixels."""

    value: float
    y: int
    x: int
    box: Box


@dataclasses.dataclass(frozen=True, slots=True)
class UnitPattern:
    """What excites a unit in an image: guided backprop (signed) and pixels of its box, each (3, h, w)."""

    hit: UnitHit
    pattern: Array
    crop: Array


@dataclasses.dataclass(frozen=True, slots=True)
class ReceptiveField:
    """Where a unit looks, by discrepancy maps.

    `images` (N, 3, H, W) are the network's inputs, `maps` (N, H, W) the mean |change| of the unit when each
    pixel is occluded, and `field` (S, S) their average over the unit's theoretical receptive field. Sizes are
    sides in pixels: `theoretical_size` is S, `empirical_size` that of a square with the area above the
    threshold.
    """

    hits: tuple[UnitHit, ...]
    theoretical_size: int
    empirical_size: float
    images: Array
    maps: Array
    field: Array
