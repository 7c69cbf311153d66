"""The job plane against a real Redis; a worker's moves are made by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.redis_server import RedisServer
from support.worker_by_hand import WorkerByHand

from convlens_workers.jobs import JobSettings, JobStore


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> JobSettings:
    return JobSettings(redis=redis_server.url, artifacts=str(tmp_path / "artifacts"), queue_limit=3)


@pytest.fixture
async def store(settings: JobSettings) -> AsyncIterator[JobStore]:
    store = JobStore.open(settings)
    yield store
    await store.close()


@pytest.fixture
def worker(settings: JobSettings) -> Iterator[WorkerByHand]:
    with WorkerByHand(settings, lease=1.0) as worker:
        yield worker
