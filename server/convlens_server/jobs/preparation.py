"""What the preparation of a job gets from this server: the collection that it names, and its features."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from convlens.v1 import collection_pb2, model_pb2
from convlens_server.collections.features import Table
from convlens_server.collections.gateway import CollectionGateway
from convlens_server.collections.top_activations import strongest_rows
from convlens_workers.collections import FeatureSet
from convlens_workers.collections.files import SHARD
from convlens_workers.jobs.techniques.base import Preparation, Ranking, Submission


async def preparation(collections: CollectionGateway, job: Submission) -> Preparation:
    """The collection that the job names, if it names one, of those of whoever calls. Raises NotFound."""
    index, shards, loop = collections.index, collections.shards, asyncio.get_running_loop()
    collection, manifest = getattr(job.params, "collection", ""), job.manifest
    order = await index.order(collection) if collection else []

    def covered(layer: str, pooling: Any) -> set[str]:
        return shards.covered(collection, FeatureSet(manifest.digest, layer, pooling))

    def describe(dimensions: Mapping[tuple[str, Any], int]) -> None:
        model = model_pb2.ModelRef(name=manifest.name, version=manifest.version)
        sets = {
            FeatureSet(manifest.digest, layer, pooling).key: collection_pb2.FeatureSet(
                model=model, layer=layer, pooling=pooling, dimension=dimension
            )
            for (layer, pooling), dimension in dimensions.items()
        }
        asyncio.run_coroutine_threadsafe(index.describe(collection, sets), loop).result()

    def strongest(ranking: Ranking, count: int) -> list[tuple[str, float]]:
        features = FeatureSet(manifest.digest, ranking.layer, ranking.pooling)
        table = Table(shards, collection, features, order)
        table.check()
        rows = strongest_rows(table, lambda block: ranking.value(block.values)[:, None], count)
        return [(order[int(position)], float(value)) for position, value in rows]

    def put_shards(images: Sequence[str]) -> list[str]:
        starts = range(0, len(images), SHARD)
        return [shards.files.put_shard(collection, images[start : start + SHARD]) for start in starts]

    return Preparation(order, covered, describe, strongest, put_shards)
