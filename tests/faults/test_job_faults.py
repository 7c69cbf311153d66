"""What must hold when processes die, hang or are told to go, with real ones."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path

import psutil
import pytest
import redis
from support.faults import checkpointed, resumed, still_works, submit
from support.job_plane import dream, running, sha256, undisturbed, until
from support.jobs import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED
from support.redis_server import RedisServer
from support.worker_process import Spawn, WorkerProcess, eventually

from convlens.v1 import job_pb2
from convlens_workers.jobs import JobStore
from convlens_workers.settings import WorkerSettings

LEASE = 1.0


async def test_device_process_killed(
    shared: JobStore, worker: WorkerProcess, request_: job_pb2.SubmitJobRequest, tiny_models: Path
) -> None:
    name = await submit(shared, request_)
    await until(shared, name, checkpointed)
    device_process = worker.device_process()
    device_process.kill()
    record = await shared.wait(name, 30)
    assert (record.metadata.state, record.metadata.attempt) == (SUCCEEDED, 2)
    assert sha256(record) == undisturbed(tiny_models, request_)
    assert resumed(worker, name) == [False, True]
    assert worker.device_process().pid != device_process.pid


async def test_hanging_device_process_is_killed_and_the_job_goes_on(
    shared: JobStore, worker: WorkerProcess, request_: job_pb2.SubmitJobRequest, tiny_models: Path
) -> None:
    name = await submit(shared, request_)
    await until(shared, name, checkpointed)
    worker.device_process().suspend()
    record = await shared.wait(name, 30)
    assert (record.metadata.state, record.metadata.attempt) == (SUCCEEDED, 2)
    assert sha256(record) == undisturbed(tiny_models, request_)


async def test_cancel_holds_even_when_the_device_process_hangs(
    shared: JobStore, worker: WorkerProcess
) -> None:
    name = await submit(shared, dream(2000))
    await until(shared, name, running)
    worker.device_process().suspend()
    began = time.monotonic()
    await shared.cancel(name)
    assert (await shared.wait(name, 5)).metadata.state == CANCELLED
    assert time.monotonic() - began < 1
    assert await still_works(shared)
    assert (await shared.get(name)).metadata.state == CANCELLED


async def test_poison_job_is_given_up(
    shared: JobStore, worker: WorkerProcess, shared_settings: WorkerSettings
) -> None:
    """One whose device process dies each time before a checkpoint: given up, and the next job is right."""
    name = operation_name("poison")
    no_checkpoints(shared_settings, name)
    assert await submit(shared, dream(2000, request_id="poison")) == name
    for attempt in (1, 2, 3):
        await until(shared, name, lambda record, n=attempt: running(record) and record.metadata.attempt == n)
        worker.device_process().kill()
        await until(shared, name, lambda record: record.metadata.state != RUNNING)
    record = await shared.get(name)
    assert (record.metadata.state, record.metadata.attempt) == (FAILED, 3)
    assert record.error is not None
    assert record.error.code == 13
    assert b"WORKER_CRASHED" in record.error.SerializeToString()
    assert await still_works(shared)


async def test_no_room_for_checkpoints(
    shared: JobStore, worker: WorkerProcess, shared_settings: WorkerSettings, tiny_models: Path
) -> None:
    request = dream(300, request_id="no room")
    name = operation_name("no room")
    no_checkpoints(shared_settings, name)
    record = await shared.wait(await submit(shared, request), 30)
    assert record.name == name
    assert sha256(record) == undisturbed(tiny_models, request)
    assert any("no checkpoint" in str(line["message"]) for line in worker.lines())


def operation_name(request_id: str) -> str:
    return "operations/" + hashlib.sha256(request_id.encode()).hexdigest()[:32]


def no_checkpoints(settings: WorkerSettings, name: str) -> None:
    """A file where the folder of the job's checkpoints would be."""
    place = Path(settings.artifacts) / name / "checkpoints"
    place.parent.mkdir(parents=True)
    place.touch()


async def test_redis_killed_and_restarted(
    shared: JobStore,
    worker: WorkerProcess,
    shared_redis: RedisServer,
    request_: job_pb2.SubmitJobRequest,
    tiny_models: Path,
) -> None:
    """In the middle of a job, for more than a lease: its worker keeps it, and who waits is not forgotten."""
    name = await submit(shared, request_)
    waiting = await submit(shared, dream(2, seed=1))
    await until(shared, name, running)
    worker.device_process().suspend()  # The job shall not end before Redis is back.
    shared_redis.kill()
    await asyncio.sleep(1.5 * LEASE)
    worker.device_process().resume()
    shared_redis.start()
    record = await shared.wait(name, 30)
    assert (record.metadata.state, record.metadata.attempt) == (SUCCEEDED, 1)
    assert sha256(record) == undisturbed(tiny_models, request_)
    assert (await shared.wait(waiting, 30)).metadata.state == SUCCEEDED


async def test_a_job_that_ends_while_redis_is_away_is_not_lost(
    shared: JobStore, worker: WorkerProcess, shared_settings: WorkerSettings, shared_redis: RedisServer
) -> None:
    """And of the checkpoints that were made meanwhile none stays behind."""
    name = await submit(shared, dream(600))
    await until(shared, name, running)
    shared_redis.kill()
    id_ = name.removeprefix("operations/")

    def ended() -> bool:
        lines = (line for line in worker.lines() if line.get("operation") == id_)
        return any("attempt ended" in str(line["message"]) for line in lines)

    eventually(ended, 30, worker.describe)
    await asyncio.sleep(1.5 * LEASE)
    shared_redis.start()
    record = await shared.wait(name, 30)
    assert (record.metadata.state, record.metadata.attempt) == (SUCCEEDED, 1)
    eventually(lambda: kinds_left(shared_settings, name) == ["artifacts", "request"])


async def test_nothing_is_left_behind(
    shared: JobStore, shared_settings: WorkerSettings, request_: job_pb2.SubmitJobRequest
) -> None:
    """After a job: no checkpoint, no lease, no entry of RQ's; only the request and the result."""
    name = await submit(shared, request_)
    await until(shared, name, checkpointed)
    await shared.wait(name, 30)
    with redis.Redis.from_url(shared_settings.redis) as client:
        for key in ("rq:queue:shared", "rq:queue:shared:intermediate", "convlens:leases:shared"):
            assert not client.exists(key)
        assert not client.exists("rq:job:" + name.removeprefix("operations/"))
    eventually(lambda: kinds_left(shared_settings, name) == ["artifacts", "request"])


def kinds_left(settings: WorkerSettings, name: str) -> list[str]:
    """The kind of each object that a job has."""
    # `os.walk` does not mind folders that go meanwhile.
    folders = os.walk(Path(settings.artifacts) / name)
    return sorted(Path(folder).name for folder, _, files in folders for _ in files)


async def test_worker_killed(
    store: JobStore, spawn: Spawn, request_: job_pb2.SubmitJobRequest, tiny_models: Path
) -> None:
    workers = [spawn(), spawn()]
    for worker in workers:
        worker.ready()
    name = await submit(store, request_)
    await until(store, name, checkpointed)
    victim, survivor = sorted(workers, key=lambda worker: not resumed(worker, name))
    device_process = victim.device_process()
    victim.kill()
    began = time.monotonic()
    eventually(lambda: not device_process.is_running() or device_process.status() == psutil.STATUS_ZOMBIE, 5)
    await until(store, name, lambda record: record.metadata.attempt == 2)
    assert time.monotonic() - began < 3 * LEASE
    record = await store.wait(name, 30)
    assert sha256(record) == undisturbed(tiny_models, request_)
    assert resumed(survivor, name) == [True]


async def test_the_only_worker_killed_and_started_again(
    store: JobStore, spawn: Spawn, request_: job_pb2.SubmitJobRequest, tiny_models: Path
) -> None:
    worker = spawn().ready()
    name = await submit(store, request_)
    await until(store, name, checkpointed)
    worker.kill()
    second = spawn().ready()
    ready = time.monotonic()
    await until(store, name, lambda record: record.metadata.attempt == 2)
    assert time.monotonic() - ready < 3 * LEASE
    record = await store.wait(name, 30)
    assert sha256(record) == undisturbed(tiny_models, request_)
    assert resumed(second, name) == [True]


async def test_worker_frozen_past_its_lease_cannot_write(
    store: JobStore, spawn: Spawn, request_: job_pb2.SubmitJobRequest, tiny_models: Path
) -> None:
    frozen = spawn().ready()
    name = await submit(store, request_)
    await until(store, name, checkpointed)
    processes = [frozen.device_process(), psutil.Process(frozen.process.pid)]
    for process in processes:
        process.suspend()
    second = spawn()
    await until(store, name, lambda record: record.metadata.attempt == 2)
    for process in processes:
        process.resume()
    record = await store.wait(name, 30)
    assert sha256(record) == undisturbed(tiny_models, request_)
    assert record.metadata.attempt == 2
    events = [metadata async for _, metadata, _ in store.watch(name)]
    assert [metadata.attempt for metadata in events] == sorted(metadata.attempt for metadata in events)
    assert second.terminate() == 0
    assert await still_works(store)  # The one that was frozen.


async def test_sigterm_checkpoints_and_requeues(
    store: JobStore, spawn: Spawn, request_: job_pb2.SubmitJobRequest, tiny_models: Path
) -> None:
    worker = spawn(checkpoint_interval=1000).ready()
    name = await submit(store, request_)
    await until(store, name, running)
    began = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - began < 3
    record = await store.get(name)
    assert (record.metadata.state, len(record.checkpoints)) == (QUEUED, 1)
    second = spawn().ready()
    record = await store.wait(name, 30)
    assert sha256(record) == undisturbed(tiny_models, request_)
    assert resumed(second, name) == [True]


async def test_sigterm_while_redis_is_away(store: JobStore, spawn: Spawn, shared_redis: RedisServer) -> None:
    """The worker goes in seconds all the same; the lease gives the job back."""
    worker = spawn().ready()
    name = await submit(store, dream(2000))
    await until(store, name, checkpointed)
    shared_redis.kill()
    assert worker.terminate() == 0
    shared_redis.start()
    second = spawn().ready()
    await until(store, name, lambda record: record.metadata.attempt == 2)
    eventually(lambda: resumed(second, name) == [True], 10, second.describe)
    await store.cancel(name)


async def test_a_job_that_runs_too_long_is_ended(store: JobStore, spawn: Spawn) -> None:
    """Its time goes on counting from attempt to attempt; the worker is good for the next job."""
    began = time.monotonic()
    worker = spawn(job_timeout=1.5).ready()
    start = time.monotonic() - began  # What the device's process takes here and now, as it will once more.
    name = await submit(store, dream(2000))
    await until(store, name, checkpointed)
    worker.device_process().kill()
    began = time.monotonic()
    record = await store.wait(name, 30)
    assert record.metadata.state == FAILED
    assert record.error is not None
    assert record.error.code == 4
    assert b"JOB_TIMEOUT" in record.error.SerializeToString()
    assert time.monotonic() - began < 4 + start
    assert await still_works(store)


@pytest.mark.slow
async def test_redis_away_for_half_a_minute(
    store: JobStore, spawn: Spawn, shared_redis: RedisServer, tiny_models: Path
) -> None:
    """The worker goes on, waits with the end of its job, and takes the next one."""
    worker = spawn().ready()
    request = dream(600)
    name = await submit(store, request)
    await until(store, name, running)
    shared_redis.kill()
    await asyncio.sleep(32)
    shared_redis.start()
    record = await store.wait(name, 30)
    assert (record.metadata.state, record.metadata.attempt) == (SUCCEEDED, 1)
    assert sha256(record) == undisturbed(tiny_models, request)
    assert await still_works(store)
    assert worker.process.poll() is None
