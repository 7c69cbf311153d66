"""Workers to break: one that a module's tests share, and ones that a test has for itself."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.job_plane import dream, opened
from support.redis_server import RedisServer
from support.worker_process import Spawn, WorkerProcess

from convlens.v1 import job_pb2
from convlens_workers.jobs import JobStore
from convlens_workers.settings import WorkerSettings

LEASE = 1.0


@pytest.fixture(scope="module")
def shared_settings(
    shared_redis: RedisServer, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> WorkerSettings:
    shared_redis.flush()
    return WorkerSettings(
        redis=shared_redis.url,
        artifacts=str(tmp_path_factory.mktemp("artifacts")),
        models=tiny_models,
        device="cpu",
        queue="shared",
        lease=LEASE,
        checkpoint_interval=0.2,
        hang_timeout=2.0,
        grace=2.0,
    )


@pytest.fixture(scope="module")
def worker(
    shared_settings: WorkerSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """One worker for all the tests that it must survive."""
    worker = WorkerProcess(shared_settings, tmp_path_factory.mktemp("logs"))
    yield worker.ready()
    worker.end()


@pytest.fixture
async def shared(shared_settings: WorkerSettings, worker: WorkerProcess) -> AsyncIterator[JobStore]:
    """The job plane of that worker."""
    async with opened(shared_settings) as store:
        yield store


@pytest.fixture
def settings(shared_settings: WorkerSettings) -> WorkerSettings:
    return shared_settings.model_copy(update={"queue": f"alone-{time.monotonic_ns()}"})


@pytest.fixture
def spawn(settings: WorkerSettings, tmp_path: Path) -> Iterator[Spawn]:
    """Starts workers that end in the test, or with it."""
    workers: list[WorkerProcess] = []

    def spawn(**changes: object) -> WorkerProcess:
        workers.append(WorkerProcess(settings.model_copy(update=changes), tmp_path))
        return workers[-1]

    yield spawn
    for worker in workers:
        worker.end()


@pytest.fixture
async def store(settings: WorkerSettings) -> AsyncIterator[JobStore]:
    """A job plane without a worker as yet."""
    async with opened(settings) as store:
        yield store


@pytest.fixture
def request_() -> job_pb2.SubmitJobRequest:
    """A job of a few seconds."""
    return dream(600)
