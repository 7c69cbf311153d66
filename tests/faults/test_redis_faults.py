"""Redis paused and Redis full, and a full disk: errors of clients, and ends of jobs."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from support.faults import checkpointed, resumed, still_works, submit
from support.front_end import FrontEnd
from support.job_plane import dream, opened, running, sha256, undisturbed, until
from support.machine import start_up, stop_up
from support.redis_server import RedisServer
from support.refusals import REFUSALS, rows
from support.worker_process import Spawn, WorkerProcess, eventually

from convlens.errors import DeadlineExceeded, Unavailable
from convlens.v1 import job_pb2
from convlens_client import Client, requests
from convlens_client.calls import Rpc
from convlens_workers.jobs import JobStore
from convlens_workers.settings import WorkerSettings

SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED


@pytest.fixture(scope="module")
def front_end(shared_settings: WorkerSettings) -> Iterator[FrontEnd]:
    names = ("redis", "artifacts", "models", "queue")
    with FrontEnd(**{name: getattr(shared_settings, name) for name in names}) as front_end:
        yield front_end


@pytest.fixture
def client(front_end: FrontEnd) -> Iterator[Client]:
    with Client(front_end.address) as client:
        yield client


def impatient(call: Rpc) -> Rpc:
    """A call that gives up at the first refusal."""
    call.__class__ = type("Impatient", (type(call),), {"patience": 0.0})
    return call


def tiny(steps: int = 2) -> Rpc:
    return requests.submit(dream(steps).deepdream, model="tiny")


async def test_redis_paused(
    client: Client, shared: JobStore, worker: WorkerProcess, shared_redis: RedisServer, tiny_models: Path
) -> None:
    """Calls end with UNAVAILABLE or at their deadline, images are served as before, the job goes on."""
    request = dream(600)
    operation = client.submit(request.deepdream, model="tiny")
    await until(shared, operation.name, running)
    shared_redis.pause()
    try:
        for call in (tiny(), requests.operation(operation.name)):
            began = time.monotonic()
            with pytest.raises(Unavailable) as raised:
                client.run(impatient(call))
            assert time.monotonic() - began < 6
            assert raised.value.retry_after
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.within(0.5).operation(operation.name)
        assert time.monotonic() - began < 1
        began = time.monotonic()
        assert client.get_model("tiny").name == "tiny"
        assert time.monotonic() - began < 1
    finally:
        shared_redis.resume()
    record = await shared.wait(operation.name, 30)
    assert (record.metadata.state, record.metadata.attempt) == (SUCCEEDED, 1)
    assert sha256(record) == undisturbed(tiny_models, request)


@pytest.mark.parametrize("code", rows(quick=["OOM", "READONLY"]))
async def test_a_job_ends_while_redis_refuses(
    code: str,
    client: Client,
    shared: JobStore,
    worker: WorkerProcess,
    shared_redis: RedisServer,
    tiny_models: Path,
) -> None:
    """No new job is taken; what runs ends, and its end is written when Redis takes writes again."""
    refusal, request = REFUSALS[code], dream(150)
    operation = client.submit(request.deepdream, model="tiny")
    await until(shared, operation.name, running)
    id_ = operation.name.removeprefix("operations/")
    with refusal.provoked(shared_redis):
        with pytest.raises(refusal.kind, match=refusal.says) as raised:
            client.run(impatient(tiny()))
        assert raised.value.retry_after

        def ended() -> bool:
            lines = (line for line in worker.lines() if line.get("operation") == id_)
            return any("attempt ended" in str(line["message"]) for line in lines)

        eventually(ended, 30, worker.describe)
    record = await shared.wait(operation.name, 30)
    assert (record.metadata.state, record.metadata.attempt) == (SUCCEEDED, 1)
    assert sha256(record) == undisturbed(tiny_models, request)
    assert worker.process.poll() is None


@pytest.mark.parametrize("code", rows(quick=["NOREPLICAS"]))
async def test_idle_workers_stay_while_redis_refuses(
    code: str, shared: JobStore, worker: WorkerProcess, shared_redis: RedisServer
) -> None:
    refusal, said = REFUSALS[code], len(worker.lines())
    with refusal.provoked(shared_redis):
        time.sleep(2.5)
    assert await still_works(shared)
    assert worker.process.poll() is None
    assert any(re.search(refusal.says, str(line["message"])) for line in worker.lines()[said:])


@pytest.mark.slow
async def test_a_worker_that_starts_while_redis_refuses_waits(
    store: JobStore, spawn: Spawn, shared_redis: RedisServer
) -> None:
    with REFUSALS["MISCONF"].provoked(shared_redis):
        worker = spawn().ready()
        time.sleep(1.0)
    assert await still_works(store)
    with redis.Redis.from_url(shared_redis.url) as client:
        assert any(b"rq:worker:" in name for name in client.smembers("rq:workers"))
    assert worker.terminate() == 0


@contextmanager
def small_disk(place: Path, megabytes: int = 4) -> Iterator[None]:
    """A disk of its own at `place`."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_all_on_one_machine_with_a_full_disk_keeps_quick_calls(tmp_path: Path) -> None:
    """Jobs are refused, nothing ends, and what is ended starts again."""
    disk = tmp_path / "disk"
    with small_disk(disk, 24):
        machine = start_up(disk)
        with pytest.raises(OSError, match="No space"):
            (disk / "ballast").write_bytes(bytes(32 << 20))
        with Client(machine.address, tls=False) as client:
            for _ in range(3):
                with pytest.raises(Unavailable):
                    client.run(impatient(requests.submit(dream(2).deepdream, model="patterns")))
                assert [model.name for model in client.list_models()] == ["patterns"]
                time.sleep(1.5)
        assert machine.poll() is None
        assert stop_up(machine)[0] == 0
        machine = start_up(disk)
        with Client(machine.address, tls=False) as client:
            assert client.get_model("patterns").name == "patterns"
        assert stop_up(machine)[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
async def test_disk_full(settings: WorkerSettings, spawn: Spawn, tmp_path: Path, tiny_models: Path) -> None:
    """At a checkpoint: the one before stays, and serves. At the end: the result waits until there is room."""
    request, disk = dream(600), tmp_path / "disk"
    ballast = disk / "ballast"
    with small_disk(disk):
        worker = spawn(artifacts=str(disk)).ready()
        async with opened(settings.model_copy(update={"artifacts": str(disk)})) as store:
            name = await submit(store, request)
            record = await until(store, name, checkpointed)
            with pytest.raises(OSError, match="No space"):
                ballast.write_bytes(bytes(8 << 20))
            eventually(lambda: said(worker, "no checkpoint"), 10, worker.describe)
            worker.device_process().kill()
            await until(store, name, lambda record: record.metadata.attempt == 2)
            eventually(lambda: said(worker, "trying again"), 20, worker.describe)
            assert (await store.get(name)).metadata.state == job_pb2.JOB_STATE_RUNNING
            ballast.unlink()
            record = await store.wait(name, 30)
            assert (record.metadata.state, record.metadata.attempt) == (SUCCEEDED, 2)
            assert sha256(record) == undisturbed(tiny_models, request)
            assert resumed(worker, name) == [False, True]
            assert worker.terminate() == 0


def said(worker: WorkerProcess, words: str) -> bool:
    return any(words in str(line["message"]) for line in worker.lines())
