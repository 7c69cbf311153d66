"""What passes between client and worker: requests, results, events."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import numpy as np
import pytest
from support.jobs import IMAGE, QUEUED, RUNNING, SUCCEEDED, request, submit
from support.worker_by_hand import WorkerByHand

from convlens.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
)
from convlens.v1 import job_pb2
from convlens_workers.jobs import JobStore, to_operation


async def test_the_request_reaches_the_worker_as_it_was(store: JobStore, worker: WorkerByHand) -> None:
    await submit(store, seed=9)
    attempt = worker.take()
    stored = worker.artifacts.get(attempt.id, "request", attempt.request)
    assert job_pb2.SubmitJobRequest.FromString(stored) == request(seed=9)


async def test_success_is_read_from_any_offset(store: JobStore, worker: WorkerByHand) -> None:
    name = await submit(store)
    with pytest.raises(FailedPrecondition, match="QUEUED"):
        await store.read(name, "image")
    data = bytes(range(256)) * 5000
    worker.succeed(worker.take(), image=np.frombuffer(data, np.uint8))
    operation = to_operation(await store.get(name))
    result = job_pb2.JobResult()
    assert operation.response.Unpack(result)
    assert result.artifacts[0].sha256 == hashlib.sha256(data).hexdigest()
    for offset in (0, 1, 1 << 20, len(data)):
        header, stream = await store.read(name, "image", offset)
        assert b"".join([piece async for piece in stream]) == data[offset:]
        assert header.total_bytes == len(data)
    with pytest.raises(OutOfRange, match="read_offset"):
        await store.read(name, "image", len(data) + 1)
    with pytest.raises(NotFound, match="it has image"):
        await store.read(name, "other")


async def test_damaged_artifact_is_data_loss(store: JobStore, worker: WorkerByHand, tmp_path: Path) -> None:
    name = await submit(store)
    worker.succeed(worker.take(), image=IMAGE)
    (path,) = (tmp_path / "artifacts").rglob("artifacts/*")
    for damaged in (b"abcx", b"abc"):
        path.write_bytes(damaged)
        _, stream = await store.read(name, "image")
        with pytest.raises(DataLoss):
            _ = [piece async for piece in stream]


async def test_watchers_see_every_event_once_and_resume(store: JobStore, worker: WorkerByHand) -> None:
    name = await submit(store)
    watchers = [asyncio.create_task(collect(store, name)) for _ in range(5)]
    attempt = worker.take()
    for step in range(3):
        worker.store.update(
            attempt, {"step": step + 1, "total_steps": 3, "losses": '{"x": 1.5}'}, preview=b"jpeg"
        )
        await asyncio.sleep(0.01)
    worker.succeed(attempt, image=IMAGE)
    events = await asyncio.wait_for(watchers[0], 2)
    assert [event[1].state for event in events] == [QUEUED, RUNNING, RUNNING, RUNNING, RUNNING, SUCCEEDED]
    assert [event[1].step for event in events] == [0, 0, 1, 2, 3, 3]
    assert [event[1].preview for event in events] == [b"", b"", b"jpeg", b"jpeg", b"jpeg", b""]
    assert events[2][1].losses == {"x": 1.5}
    assert all([await watcher == events for watcher in watchers])
    assert await collect(store, name, events[2][0]) == events[3:]
    assert [event[1].state for event in await collect(store, name, events[-1][0])] == [SUCCEEDED]


async def collect(store: JobStore, name: str, after: str = "") -> list[tuple[str, job_pb2.JobMetadata]]:
    return [(event_id, metadata) async for event_id, metadata, _ in store.watch(name, after)]


async def test_a_failure_ends_the_watch_with_its_error(store: JobStore, worker: WorkerByHand) -> None:
    name = await submit(store)
    worker.store.fail(worker.take(), InvalidArgument("octaves", field="deepdream.octaves"))
    events = [event async for event in store.watch(name)]
    assert [error.code if error else None for _, _, error in events] == [None, None, 3]
    operation = to_operation(await store.get(name))
    assert operation.error.message == "octaves"


@pytest.mark.parametrize("event_id", ["x", "1", "1-", "1-2-3", "9" * 30 + "-0"])
async def test_malformed_event_ids_are_out_of_range(event_id: str, store: JobStore) -> None:
    name = await submit(store)
    with pytest.raises(OutOfRange, match="after_event_id"):
        await anext(store.watch(name, event_id))


async def test_wait(store: JobStore, worker: WorkerByHand) -> None:
    name = await submit(store)
    for timeout in (0.05, 0.0, -1.0):
        assert (await store.wait(name, timeout)).metadata.state == QUEUED
    waiting = asyncio.create_task(store.wait(name))
    await asyncio.sleep(0.05)
    worker.succeed(worker.take(), image=IMAGE)
    assert (await asyncio.wait_for(waiting, 2)).metadata.state == SUCCEEDED
