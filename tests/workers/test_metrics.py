"""The metrics of a worker."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import redis
from support.redis_server import RedisServer, free_port
from support.scraping import scrape
from support.server_thread import serving

from convlens_workers.jobs import JobSettings
from convlens_workers.jobs.worker_job_store import WorkerJobStore
from convlens_workers.metrics import Metrics


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> JobSettings:
    return JobSettings(redis=redis_server.url, artifacts=str(tmp_path / "artifacts"))


def test_a_worker_tells_of_its_queue_attempts_and_checkpoints(settings: JobSettings) -> None:
    address = f"127.0.0.1:{free_port()}"
    with redis.Redis.from_url(settings.redis) as client:
        client.rpush("rq:queue:convlens", "a", "b")
        client.hset("convlens:counters:convlens", mapping={"retried": 2, "given_up": 1})
        metrics = Metrics(WorkerJobStore(client, settings, lease=1.0), os.getppid)
        end = metrics.serve(address)
        try:
            metrics.began()
            metrics.checkpointed(0.25)
            running = scrape(address)
            metrics.ended("finished")
            idle = scrape(address)
        finally:
            end()
    assert running['convlens_jobs_queued{queue="convlens"}'] == 2
    assert running['convlens_jobs_total{event="retried",queue="convlens"}'] == 2
    assert running['convlens_jobs_total{event="given_up",queue="convlens"}'] == 1
    assert running["convlens_checkpoint_seconds_sum"] == 0.25
    assert running["convlens_checkpoint_age_seconds"] > 0
    assert idle["convlens_checkpoint_age_seconds"] == 0
    assert (running["convlens_worker_busy"], idle["convlens_worker_busy"]) == (1, 0)
    assert idle["process_resident_memory_bytes"] > 0
    for name, process in (("convlens_engine_process", os.getppid()), ("process", os.getpid())):
        began = psutil.Process(process).create_time()
        assert idle[f"{name}_start_time_seconds"] == pytest.approx(began, rel=0, abs=1)
    assert idle['convlens_attempts_total{end="finished"}'] == 1


def test_a_server_tells_of_its_queues_and_of_redis_that_is_away(
    settings: JobSettings, redis_server: RedisServer, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    places = {"redis": settings.redis, "artifacts": settings.artifacts, "models": tmp_path}
    with serving(metrics_listen=address, priorities="high,low", **places):
        metrics = scrape(address)
        assert metrics["convlens_redis_up"] == 1
        for queue in ("convlens", "convlens-high", "convlens-low"):
            assert metrics[f'convlens_jobs_running{{queue="{queue}"}}'] == 0
        redis_server.kill()
        metrics = scrape(address)
        assert metrics["convlens_redis_up"] == 0
        assert metrics["convlens_ready"] == 1
        assert not any(name.startswith("convlens_jobs") for name in metrics)
        redis_server.start()
