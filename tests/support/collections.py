"""Collections for tests: small pictures, made of a seed, and a worker's part done in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from convlens import wire
from convlens.v1 import inspection_pb2, job_pb2
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles, FeatureSet
from convlens_workers.techniques.base import State, Step, Task
from convlens_workers.techniques.extract_features import extract_features

LAYER = "features.relu2"
MEAN, MAX = inspection_pb2.POOLING_MEAN, inspection_pb2.POOLING_MAX


def picture(seed: int, side: int = 40) -> bytes:
    """A PNG of smooth random colours."""
    coarse = np.random.default_rng(seed).random((5, 5, 3))
    fine = np.kron(coarse, np.ones((side // 5, side // 5, 1)))
    return wire.encode_image((fine * 255).astype(np.uint8))


def extraction(
    models: Path | None, model: str, files: CollectionFiles, shards: list[str], part: int = 0
) -> Task[job_pb2.ExtractFeatures]:
    """The task of extracting mean and maximum of one layer for the shards of the collection "c"."""
    stored = ModelRepository(models).get(model)
    params = job_pb2.ExtractFeatures(
        collection="c", layers=[LAYER], poolings=[MEAN, MAX], shards=shards, part=part
    )
    return Task(params, load_network(stored), stored.manifest, {}, 0, torch.device("cpu"), files)


def steps(task: Task[job_pb2.ExtractFeatures], state: State | None = None) -> list[Step]:
    """All that the extraction yields."""
    return list(extract_features(task, state))


def stored_bytes(task: Task[job_pb2.ExtractFeatures]) -> dict[str, bytes]:
    """All features that there are, by set and shard."""
    stored = {}
    for pooling in task.params.poolings:
        which = FeatureSet(task.manifest.digest, LAYER, pooling)
        for shard in task.collections.finished("c", which):
            features = task.collections.features("c", which, shard)
            stored[f"{pooling}/{shard}"] = features.values.tobytes() + features.positions.tobytes()
    return stored
