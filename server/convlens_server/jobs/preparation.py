"""What the preparation of a job gets from this server: the caller's collections and their features."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from convlens.v1 import collection_pb2, model_pb2
from convlens_models.manifest import Manifest
from convlens_server.collections.features import Table
from convlens_server.collections.gateway import CollectionGateway
from convlens_server.collections.top_activations import strongest_rows
from convlens_workers.collections import FeatureSet
from convlens_workers.collections.files import SHARD
from convlens_workers.jobs.techniques.base import Preparation, Ranking


def preparation(
    collections: CollectionGateway, run: Callable[..., Awaitable[None]], manifest: Manifest
) -> Preparation:
    """The collections of whoever calls, and their features of the model that `manifest` describes.

    Args:
        run: calls what blocks.
    """
    index, shards = collections.index, collections.shards

    async def describe(collection: str, dimensions: Mapping[tuple[str, Any], int]) -> None:
        model = model_pb2.ModelRef(name=manifest.name, version=manifest.version)
        sets = {
            FeatureSet(manifest.digest, layer, pooling).key: collection_pb2.FeatureSet(
                model=model, layer=layer, pooling=pooling, dimension=dimension
            )
            for (layer, pooling), dimension in dimensions.items()
        }
        await index.describe(collection, sets)

    def covered(collection: str, layer: str, pooling: int) -> set[str]:
        return shards.covered(collection, FeatureSet(manifest.digest, layer, pooling))

    def strongest(
        collection: str, order: Sequence[str], ranking: Ranking, count: int
    ) -> list[tuple[str, float]]:
        features = FeatureSet(manifest.digest, ranking.layer, ranking.pooling)
        table = Table(shards, collection, features, order)
        table.check()
        rows = strongest_rows(table, lambda found: ranking.value(found.values)[:, None], count)
        return [(order[int(position)], float(value)) for position, value in rows]

    def put_shards(collection: str, images: Sequence[str]) -> list[str]:
        starts = range(0, len(images), SHARD)
        return [shards.files.put_shard(collection, images[start : start + SHARD]) for start in starts]

    return Preparation(index.order, describe, run, covered, strongest, put_shards)
