"""Tidying the artifact store."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import redis
from support.redis_server import RedisServer

from convlens_workers.jobs import ArtifactStore
from convlens_workers.jobs.worker_job_store import WorkerJobStore
from convlens_workers.maintenance import Maintenance
from convlens_workers.settings import WorkerSettings

DAY = 86400
IDS = {name: name.encode().hex().rjust(32, "0") for name in ("expired", "kept", "young")}


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(redis=redis_server.url, artifacts=str(tmp_path), job_ttl=DAY)


@pytest.fixture
def store(settings: WorkerSettings) -> WorkerJobStore:
    return WorkerJobStore(redis.Redis.from_url(settings.redis), settings, lease=1.0)


def test_only_old_artifacts_without_a_record_are_removed(
    settings: WorkerSettings, store: WorkerJobStore, tmp_path: Path
) -> None:
    artifacts = ArtifactStore(settings.artifacts_url())
    for id_ in IDS.values():
        artifacts.put(id_, "request", b"request")
        artifacts.put(id_, "artifacts", id_.encode())
    old = time.time() - 2.1 * DAY
    for name in ("expired", "kept"):
        for path in (tmp_path / "operations" / IDS[name]).rglob("*"):
            os.utime(path, (old, old))
    with redis.Redis.from_url(settings.redis) as client:
        client.hset(f"convlens:operation:{IDS['kept']}", "state", 3)
    Maintenance(store, artifacts, settings, heartbeat=lambda: None).tidy()
    assert {path.name for path in (tmp_path / "operations").iterdir()} == {IDS["kept"], IDS["young"]}


def test_one_worker_an_hour_tidies(store: WorkerJobStore) -> None:
    assert [store.may_tidy() for _ in range(3)] == [True, False, False]
