"""What a collection has in the artifact store: image files, lists of images (shards), and features by shard.

    collections/<id>/images/<sha256 of the file>
    collections/<id>/shards/<sha256 of the list>          the SHA-256 of 1 to 256 images, 32 bytes each
    collections/<id>/features/<key of the set>/<shard>    safetensors: values, positions, width
    collections/<id>/claims/<key of the sets>/<shard>     empty: somebody computes these features

A shard's features follow from its images, the model's files, layer and pooling, which are all in their name.
So whoever computes them twice, or too late, changes nothing. Claims need no lease, therefore: they only keep
workers from doing the same at the same time, and one that is left over delays a shard, but loses none.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from convlens.errors import DataLoss, FailedPrecondition
from convlens.v1 import inspection_pb2
from convlens_workers.jobs.artifacts import ArtifactStore

TOP: Final = "collections"
SHARD: Final = 256
DIGEST_BYTES: Final = 32
POOLING_NAMES: Final[dict[int, str]] = {number: name for name, number in inspection_pb2.Pooling.items()}


@dataclass(frozen=True)
class FeatureSet:
    """What features are of: a layer of a model, known by its digest, and how its map becomes a vector."""

    model: str
    layer: str
    pooling: int

    @property
    def key(self) -> str:
        """Its name in the store; layers may have any name, so theirs does not occur in it."""
        text = f"{self.model}\n{self.layer}\n{POOLING_NAMES[self.pooling]}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Features:
    """Features of n images, as `FeatureSet` says.

    Attributes:
        values: float32 (n, D).
        positions: where in the map each maximum lies, int32 (n, C), y * width + x; only of pooling MAX.
        width: of the map; 1 where the layer has no spatial axes.
    """

    values: NDArray[np.float32]
    positions: NDArray[np.int32]
    width: int

    def followed_by(self, more: Features) -> Features:
        """The features of these images and of more of the same set."""
        values = np.concatenate([self.values, more.values])
        return Features(values, np.concatenate([self.positions, more.positions]), self.width)


class CollectionFiles:
    """The files of all collections. Methods block, and raise Unavailable when the store fails.

    Args:
        url: of the artifact store.
    """

    def __init__(self, url: str) -> None:
        self._store = ArtifactStore(url, TOP)
        self._owner = ""

    def of(self, owner: str) -> CollectionFiles:
        """The collections of that owner by their own ids; without one, ids are taken as they are stored."""
        theirs = copy.copy(self)
        theirs._owner = owner
        return theirs

    def put_image(self, collection: str, data: bytes) -> str:
        """Store an image's file; gives its SHA-256."""
        return self._store.put(self._owned(collection), "images", data)

    def image(self, collection: str, digest: str) -> bytes:
        """The file of an image. Raises NotFound, DataLoss."""
        return self._store.get(self._owned(collection), "images", digest)

    def drop_image(self, collection: str, digest: str) -> None:
        """Remove the file of an image."""
        self._store.drop(self._owned(collection), "images", digest)

    def put_shard(self, collection: str, images: Sequence[str]) -> str:
        """Store a list of images; gives its name."""
        return self._store.put(self._owned(collection), "shards", b"".join(map(bytes.fromhex, images)))

    def shard(self, collection: str, name: str) -> list[str]:
        """The images of a shard. Raises NotFound, DataLoss."""
        data = self._store.get(self._owned(collection), "shards", name)
        starts = range(0, len(data), DIGEST_BYTES)
        return [data[start : start + DIGEST_BYTES].hex() for start in starts]

    def put_features(self, collection: str, which: FeatureSet, shard: str, features: Features) -> None:
        """Store the features of a shard with their digest, unless they are there.

        Raises:
            FailedPrecondition: the network gives no numbers for some image.
        """
        if not np.isfinite(features.values).all():
            raise FailedPrecondition(f"{which.layer}: its values are not finite for some image")
        tensors = {"values": features.values, "positions": features.positions}
        tensors["width"] = np.array([features.width], np.int32)
        data = save(tensors, {"sha256": _digest(tensors)})
        self._store.put_named(self._owned(collection), f"features/{which.key}", shard, data)

    def features(self, collection: str, which: FeatureSet, shard: str) -> Features:
        """The features of a shard. Raises NotFound; DataLoss where they are not those that were stored."""
        data = self._store.get_named(self._owned(collection), f"features/{which.key}", shard)
        try:
            tensors = load(data)
            known = _metadata(data).get("sha256")  # Absent in those of before there was one.
            if known not in (None, _digest(tensors)) or not np.isfinite(tensors["values"]).all():
                raise ValueError("they do not match their digest, or are no numbers")
            return Features(tensors["values"], tensors["positions"], int(tensors["width"][0]))
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataLoss(f"features {which.key}/{shard} of {collection} are damaged: {error}") from error

    def finished(self, collection: str, which: FeatureSet) -> list[str]:
        """The shards that have features, in the order of their names."""
        return self._store.names(self._owned(collection), f"features/{which.key}")

    def claim(self, collection: str, sets: Sequence[FeatureSet], shard: str) -> bool:
        """Claim the computing of these features; False where another worker has claimed it."""
        return self._store.put_named(self._owned(collection), _claims(sets), shard, b"")

    def release(self, collection: str, sets: Sequence[FeatureSet], shard: str) -> None:
        """Give the claim back."""
        self._store.drop(self._owned(collection), _claims(sets), shard)

    def drop(self, collection: str) -> None:
        """Remove all files of a collection."""
        self._store.drop_all(self._owned(collection))

    def _owned(self, collection: str) -> str:
        return owned(self._owner, collection)


def _digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of the tensors' bytes, in the order of their names."""
    return hashlib.sha256(b"".join(tensors[name].tobytes() for name in sorted(tensors))).hexdigest()


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length]).get("__metadata__", {}))


def owned(owner: str, name: str) -> str:
    """The name in the stores of what is called `name` by its owner; nobody's own names have a dot."""
    return f"{owner}.{name}" if owner else name


def _claims(sets: Sequence[FeatureSet]) -> str:
    keys = "".join(sorted(which.key for which in sets))
    return f"claims/{hashlib.sha256(keys.encode()).hexdigest()[:32]}"
