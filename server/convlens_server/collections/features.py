"""The features of a collection, read shard by shard: memory holds one shard, however large the collection."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens_server.backends.cache import LruCache
from convlens_workers.collections import CollectionFiles, Features, FeatureSet
from convlens_workers.collections.files import POOLING_NAMES

KEPT_IMAGES: Final = 200_000
"""Images in the lists of shards that are kept in memory, some 100 bytes each."""

Positions = NDArray[np.int64]
Known = LruCache[str, list[str]]


class Shards:
    """The lists of images of a collection's shards."""

    def __init__(self, files: CollectionFiles, known: Known | None = None) -> None:
        self.files = files
        self._known: Known = LruCache(KEPT_IMAGES) if known is None else known

    def of(self, files: CollectionFiles) -> Shards:
        """The same of other files; a shard is named by its list's digest, so what is known holds there."""
        return Shards(files, self._known)

    def images(self, collection: str, shard: str) -> list[str]:
        """SHA-256 of the images of a shard."""

        def read() -> tuple[list[str], float]:
            images = self.files.shard(collection, shard)
            return images, len(images)

        return self._known.get(shard, read)

    def covered(self, collection: str, which: FeatureSet) -> set[str]:
        """The SHA-256 of the images that have features."""
        finished = self.files.finished(collection, which)
        return {image for shard in finished for image in self.images(collection, shard)}


@dataclass(frozen=True)
class Table:
    """The features of all images of a collection: a matrix whose rows are the images in their order.

    Attributes:
        shards: reads the files of the features.
        collection: the collection's id.
        which: the layer and the pooling of the features.
        order: the SHA-256 of each image.
    """

    shards: Shards
    collection: str
    which: FeatureSet
    order: Sequence[str]

    def blocks(self) -> Iterator[tuple[Positions, Features]]:
        """The rows, some at a time, each once, with their positions in the order; not sorted.

        Raises:
            FailedPrecondition: images without features; says which job makes them.
        """
        missing = {digest: position for position, digest in enumerate(self.order)}
        for shard in self._finished():
            images = self.shards.images(self.collection, shard)
            rows = [row for row, image in enumerate(images) if image in missing]
            positions = np.array([missing.pop(images[row]) for row in rows], np.int64)
            if rows:
                features = self.shards.files.features(self.collection, self.which, shard)
                yield positions, Features(features.values[rows], features.positions[rows], features.width)

    def check(self) -> None:
        """Raises FailedPrecondition when there are images without features; says which job makes them."""
        covered = self.shards.covered(self.collection, self.which)
        if missing := sum(digest not in covered for digest in self.order):
            pooling = POOLING_NAMES[self.which.pooling].removeprefix("POOLING_").lower()
            raise FailedPrecondition(
                f"{missing} of {len(self.order)} images of collection {self.collection!r} have no features "
                f"of {self.which.layer} ({pooling}): submit extract_features for this model, layer, pooling",
                reason="NO_FEATURES",
            )
        if not self.order:
            raise FailedPrecondition(f"collection {self.collection!r} has no images", reason="NO_FEATURES")

    def row(self, position: int) -> NDArray[np.float32]:
        """The row of the image at `position`, (D,)."""
        for positions, features in self.blocks():
            if position in positions:
                return np.asarray(features.values[positions == position][0])
        raise InvalidArgument.of("name", position, f"an image among {len(self.order)}")

    @property
    def key(self) -> str:
        """A name of the table, 32 hexadecimal digits that change when the rows do."""
        text = "\n".join((self.collection, self.which.key, *self.order))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _finished(self) -> list[str]:
        return self.shards.files.finished(self.collection, self.which)
