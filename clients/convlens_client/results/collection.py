"""Sets of images, and what searches return of them."""

from __future__ import annotations

import dataclasses
from datetime import datetime

from convlens_client.results.array import Array
from convlens_client.results.unit import UnitHit


@dataclasses.dataclass(frozen=True, slots=True)
class FeatureSet:
    """Features of a collection; fields as in `convlens.v1.FeatureSet`, with `pooling` such as "MEAN"."""

    model: str
    layer: str
    pooling: str
    dimension: int
    images: int


@dataclasses.dataclass(frozen=True, slots=True)
class Collection:
    """A set of images; fields as in `convlens.v1.Collection`."""

    id: str
    images: int
    total_bytes: int
    create_time: datetime | None
    features: tuple[FeatureSet, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class CollectionImage:
    """An image of a collection; fields as in `convlens.v1.CollectionImage`."""

    name: str
    digest: str
    width: int
    height: int
    bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Added:
    """What became of an image that was to be added: `error` says why it was refused, else it is ""."""

    image: CollectionImage
    duplicate: bool
    error: str


@dataclasses.dataclass(frozen=True, slots=True)
class Neighbour:
    """A near image, its distance, and its thumbnail as a JPEG, where asked for."""

    image: CollectionImage
    distance: float
    thumbnail: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Neighbours:
    """Nearest first; `recall_at_10` is measured for approximate search, and 1 for exact search."""

    neighbours: tuple[Neighbour, ...]
    recall_at_10: float


@dataclasses.dataclass(frozen=True, slots=True)
class TopActivation:
    """An image that excites a unit; `crop` is a PNG of what it sees, `pattern` of its guided backprop."""

    image: CollectionImage
    hit: UnitHit
    crop: bytes
    pattern: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class CollectionMap:
    """Points (N, 2) in [0, 1], in the order of the images; shares of the variance (2,) of PCA, else None."""

    points: Array
    explained_variance: Array | None
