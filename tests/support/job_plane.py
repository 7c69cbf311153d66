"""A job plane for tests: Redis, artifacts, a model repository; and jobs on a small network."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import torch
from support import techniques
from support.tiny_model import NAME

from convlens import wire
from convlens.v1 import image_pb2, job_pb2, model_pb2
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.jobs import JobRecord, JobStore
from convlens_workers.settings import WorkerSettings
from convlens_workers.techniques.base import Task
from convlens_workers.techniques.deepdream import deepdream


def dream(steps: int, seed: int = 0, request_id: str = "") -> job_pb2.SubmitJobRequest:
    """A DeepDream of `steps` steps on the small network."""
    pixels = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)).numpy()
    params = job_pb2.DeepDream(
        image=image_pb2.Image(tensor=wire.to_tensor(pixels)),
        layers=["features.relu4_1"],
        octaves=1,
        octave_scale=1.4,
        steps=steps,
        step_size=1.5,
        jitter=8,
    )
    ref = model_pb2.ModelRef(name=NAME, version=1)
    return job_pb2.SubmitJobRequest(request_id=request_id, model=ref, seed=seed, deepdream=params)


def undisturbed(models: Path, request: job_pb2.SubmitJobRequest) -> str:
    """SHA-256 of the picture that the job ends in, computed in this process on one thread."""
    return _undisturbed(models, request.SerializeToString(deterministic=True))


@cache
def _undisturbed(models: Path, serialised: bytes) -> str:
    request = job_pb2.SubmitJobRequest.FromString(serialised)
    with techniques.one_thread():
        stored = ModelRepository(models).get(NAME)
        image = torch.from_numpy(wire.from_tensor(request.deepdream.image.tensor).copy())[None]
        task = Task(
            request.deepdream,
            load_network(stored),
            stored.manifest,
            {"image": image},
            request.seed,
            torch.device("cpu"),
            CollectionFiles("memory:///"),
        )
        results = techniques.finished(deepdream(task))
    return hashlib.sha256(results["image"].numpy().tobytes()).hexdigest()


@asynccontextmanager
async def opened(settings: WorkerSettings) -> AsyncIterator[JobStore]:
    """The store that a server would have."""
    store = JobStore.open(settings)
    try:
        yield store
    finally:
        await store.close()


async def until(
    store: JobStore, name: str, seen: Callable[[JobRecord], bool], within: float = 30.0
) -> JobRecord:
    """The job as soon as it is as `seen` wants it."""
    async with asyncio.timeout(within):
        while not seen(record := await store.get(name)):
            await asyncio.sleep(0.02)
    return record


def running(record: JobRecord) -> bool:
    return record.metadata.state == job_pb2.JOB_STATE_RUNNING and record.metadata.step > 0


def sha256(record: JobRecord) -> str:
    """Of the job's picture."""
    assert record.result is not None, record
    return record.result.artifacts[0].sha256
