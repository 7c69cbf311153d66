"""Extraction of features as jobs: what is missing is cut into shards, which several jobs share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from convlens.v1 import collection_pb2, inspection_pb2, job_pb2, model_pb2
from convlens_models.manifest import Manifest
from convlens_server.collections.features import Shards
from convlens_workers.collections import FeatureSet
from convlens_workers.collections.files import SHARD
from convlens_workers.collections.pooling import dimension
from convlens_workers.jobs import helper_id

DEFAULT_POOLINGS: Final = (inspection_pb2.POOLING_MEAN, inspection_pb2.POOLING_MAX)


def describe(
    params: job_pb2.ExtractFeatures, manifest: Manifest
) -> dict[FeatureSet, collection_pb2.FeatureSet]:
    """The feature sets that a job will make; fills in the poolings where none are given.

    Raises:
        InvalidArgument: vectors that would be too long.
    """
    poolings = [pooling for pooling in params.poolings if pooling] or DEFAULT_POOLINGS
    del params.poolings[:]
    params.poolings.extend(dict.fromkeys(poolings))
    return {
        FeatureSet(manifest.digest, layer, pooling): collection_pb2.FeatureSet(
            model=model_pb2.ModelRef(name=manifest.name, version=manifest.version),
            layer=layer,
            pooling=pooling,
            dimension=dimension(manifest.layer(layer), pooling, "extract_features.poolings"),
        )
        for layer in params.layers
        for pooling in params.poolings
    }


def plan(
    shards: Shards, params: job_pb2.ExtractFeatures, sets: Sequence[FeatureSet], order: Sequence[str]
) -> None:
    """Fill in the shards of all images that lack any of the features; blocks."""
    covered = set.intersection(*(shards.covered(params.collection, which) for which in sets))
    missing = [digest for digest in order if digest not in covered]
    del params.shards[:]
    params.shards.extend(
        shards.files.put_shard(params.collection, missing[start : start + SHARD])
        for start in range(0, len(missing), SHARD)
    )
    params.parts = max(1, min(params.parts, len(params.shards)))
    params.part = 0


def helpers(request: job_pb2.SubmitJobRequest, operation: str) -> Iterator[job_pb2.SubmitJobRequest]:
    """The other jobs that go through the same shards."""
    for part in range(1, request.extract_features.parts):
        helper = job_pb2.SubmitJobRequest()
        helper.CopyFrom(request)
        helper.request_id = helper_id(operation, part)
        helper.extract_features.part = part
        yield helper
