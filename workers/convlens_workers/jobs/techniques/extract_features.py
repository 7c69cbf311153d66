"""The extraction of features before it is queued: shards of what is missing, which several jobs share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from convlens.errors import InvalidArgument
from convlens.v1 import inspection_pb2, job_pb2
from convlens_models.manifest import Layer
from convlens_workers.jobs.store import helper_id
from convlens_workers.jobs.techniques.base import Preparation, Specification, Submission
from convlens_workers.jobs.techniques.work import FORWARD, READING, Pass, Steps

DEFAULT_POOLINGS: Final = (inspection_pb2.POOLING_MEAN, inspection_pb2.POOLING_MAX)
MAX_DIMENSION: Final = 32768
"""Values of a feature vector."""
IMAGES: Final = "images"
"""What preparation counts: those of all shards, which tell of no number."""


def dimension(layer: Layer, pooling: int, field: str) -> int:
    """Length of the vectors at the model's input size. Raises InvalidArgument where they are too long."""
    size = math.prod(layer.shape) if pooling == inspection_pb2.POOLING_FLATTEN else layer.shape[0]
    if size > MAX_DIMENSION:
        raise InvalidArgument.of(
            field, f"{size} values of {layer.name}", f"at most {MAX_DIMENSION} values a vector"
        )
    return size


def dimensions(job: Submission) -> dict[tuple[str, int], int]:
    """Lengths of the vectors by layer and pooling. Raises InvalidArgument where some are too long."""
    return {
        (layer, pooling): dimension(job.manifest.layer(layer), pooling, f"{job.technique}.poolings")
        for layer in job.params.layers
        for pooling in job.params.poolings
    }


def vectors_are_short_enough(job: Submission) -> None:
    """The vectors of all layers and poolings are within `MAX_DIMENSION`."""
    dimensions(job)


def complete(job: Submission) -> None:
    """Fill in the poolings where none are given; each counts once."""
    poolings = [pooling for pooling in job.params.poolings if pooling] or DEFAULT_POOLINGS
    del job.params.poolings[:]
    job.params.poolings.extend(dict.fromkeys(poolings))


def prepare(job: Submission, server: Preparation) -> None:
    """Fill in the shards of the images that lack any of the features, and remember which there will be."""
    params, sets = job.params, dimensions(job)
    covered = set.intersection(*(server.covered(layer, pooling) for layer, pooling in sets))
    del params.shards[:]
    missing = [digest for digest in server.order if digest not in covered]
    params.shards.extend(server.put_shards(missing))
    job.counted[IMAGES] = len(missing)
    params.parts = max(1, min(params.parts, len(params.shards)))
    params.part = 0
    server.describe(sets)


def helpers(request: job_pb2.SubmitJobRequest, operation: str) -> Iterator[job_pb2.SubmitJobRequest]:
    """The other jobs that go through the same shards."""
    for part in range(1, request.extract_features.parts):
        helper = job_pb2.SubmitJobRequest()
        helper.CopyFrom(request)
        helper.request_id = helper_id(operation, part)
        helper.extract_features.part = part
        yield helper


def work(job: Submission) -> list[Steps]:
    """A step an image, of which each of the jobs takes its part; nothing before the images are counted."""
    side = job.manifest.input_size
    share = 1 / max(1, job.params.parts)
    passed = Pass((side, side), share, FORWARD, tuple(job.params.layers))
    read = Pass((1, 1), share, FORWARD, network=READING)
    return [Steps(job.counted.get(IMAGES, 0), (read, passed))]


SPECIFICATION: Final = Specification(
    (vectors_are_short_enough,), work, complete=complete, prepare=prepare, helpers=helpers
)
