"""Extraction of a collection's features by real workers: shared by two, and through the death of one."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest
from support import techniques
from support.collections import LAYER, MAX, MEAN, extraction, picture, steps, stored_bytes
from support.faults import checkpointed
from support.job_plane import running, until
from support.jobs import CANCELLED, SUCCEEDED
from support.tiny_model import NAME
from support.worker_process import Spawn

from convlens.v1 import job_pb2, model_pb2
from convlens_workers.collections import CollectionFiles
from convlens_workers.jobs import JobStore
from convlens_workers.jobs.techniques.extract_features import helpers
from convlens_workers.settings import WorkerSettings

SHARD = 40


@pytest.fixture
def files(settings: WorkerSettings) -> CollectionFiles:
    return CollectionFiles(settings.artifacts_url())


def fill(files: CollectionFiles, count: int) -> list[str]:
    """Shards of the collection "c"."""
    files.drop("c")
    digests = [files.put_image("c", picture(seed)) for seed in range(count)]
    return [files.put_shard("c", digests[start : start + SHARD]) for start in range(0, count, SHARD)]


async def submit(store: JobStore, shards: list[str], parts: int) -> list[str]:
    """The job and its helpers, as the server submits them."""
    params = job_pb2.ExtractFeatures(
        collection="c", layers=[LAYER], poolings=[MEAN, MAX], shards=shards, parts=parts
    )
    request = job_pb2.SubmitJobRequest(
        request_id=str(uuid.uuid4()),
        model=model_pb2.ModelRef(name=NAME, version=1),
        extract_features=params,
    )
    name = (await store.submit(request, model_digest="abc")).name
    rest = [await store.submit(helper, model_digest="abc") for helper in helpers(request, name)]
    return [name, *(record.name for record in rest)]


def digest(features: dict[str, bytes]) -> str:
    return hashlib.sha256(b"".join(features[key] for key in sorted(features))).hexdigest()


def undisturbed(models: Path, count: int) -> str:
    """Of all features, extracted in this process."""
    files = CollectionFiles("memory:///")
    task = extraction(models, NAME, files, fill(files, count))
    with techniques.one_thread():
        steps(task)
    return digest(stored_bytes(task))


async def test_two_workers_share_one_extraction(
    store: JobStore, spawn: Spawn, files: CollectionFiles, tiny_models: Path
) -> None:
    shards = fill(files, 400)
    workers = [spawn().ready() for _ in range(2)]
    names = await submit(store, shards, parts=2)
    records = [await store.wait(name, 60) for name in names]
    assert [record.metadata.state for record in records] == [SUCCEEDED] * 2
    assert records[0].metadata.total_steps == 400
    assert records[0].metadata.step == 400
    assert len({name for name in names if any(_started(worker.lines(), name) for worker in workers)}) == 2
    assert all(any(_started(worker.lines(), name) for name in names) for worker in workers)
    task = extraction(tiny_models, NAME, files, shards)
    assert digest(stored_bytes(task)) == undisturbed(tiny_models, 400)


async def test_killed_worker_loses_no_shard_and_the_end_is_the_same(
    store: JobStore, spawn: Spawn, files: CollectionFiles, tiny_models: Path
) -> None:
    shards = fill(files, 400)
    worker = spawn().ready()
    (name,) = await submit(store, shards, parts=1)
    record = await until(store, name, checkpointed)
    done = stored_bytes(extraction(tiny_models, NAME, files, shards))
    worker.kill()
    other = spawn().ready()
    record = await store.wait(name, 60)
    assert (record.metadata.state, record.metadata.attempt) == (SUCCEEDED, 2)
    assert [line["resumed"] for line in other.lines() if "resumed" in line] == [True]
    features = stored_bytes(extraction(tiny_models, NAME, files, shards))
    assert done.items() <= features.items()
    assert digest(features) == undisturbed(tiny_models, 400)


async def test_cancel_ends_the_helpers_too(store: JobStore, spawn: Spawn, files: CollectionFiles) -> None:
    shards = fill(files, 400)
    spawn().ready()
    names = await submit(store, shards, parts=4)
    await until(store, names[0], running)
    await store.cancel(names[0])
    async with asyncio.timeout(20):
        states = [(await store.wait(name)).metadata.state for name in names]
    assert states == [CANCELLED] * 4


def _started(lines: Iterable[dict[str, object]], name: str) -> bool:
    id_ = name.removeprefix("operations/")
    return any(line["message"] == "started" and line.get("operation") == id_ for line in lines)
