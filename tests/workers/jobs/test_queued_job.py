"""What RQ may be given: our one function, as JSON."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from support.redis_server import RedisServer

from convlens_workers.jobs.job import FUNCTION, QueuedJob, RefusedJob, rq_fields, run

ID = "0123456789abcdef" * 2


@pytest.fixture
def client(redis_server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(redis_server.url)


def store(client: redis.Redis, **changes: Any) -> None:
    client.hset(f"rq:job:{ID}", mapping=rq_fields(ID, "convlens") | changes)


def test_rq_itself_reads_what_we_write(client: redis.Redis) -> None:
    """Its monitors do; a plain `rq worker` on our queue is told off."""
    store(client)
    job = Job.fetch(ID, connection=client, serializer=JSONSerializer)
    assert (job.func_name, job.args, job.origin, job.timeout) == (FUNCTION, [ID], "convlens", -1)
    assert job.get_status() == JobStatus.QUEUED
    assert job.enqueued_at is not None
    assert job.func is run
    with pytest.raises(RuntimeError, match="needs a convlens-worker"):
        job.perform()


def test_ours_are_accepted(client: redis.Redis) -> None:
    store(client)
    assert QueuedJob.fetch(ID, connection=client).args == [ID]


@pytest.mark.parametrize(
    "changes",
    [
        {"data": f'["os.system", null, ["{ID}"], {{}}]'},
        {"data": f'["{FUNCTION}", null, ["another"], {{}}]'},
        {"data": f'["{FUNCTION}", null, ["{ID}"], {{"x": 1}}]'},
        {"data": f'["{FUNCTION}", "instance", ["{ID}"], {{}}]'},
        {"data": b"\x80\x04\x95\x00"},
        {"data": "[]"},
        {"success_callback_name": "os.system"},
        {"failure_callback_name": "os.system"},
        {"stopped_callback_name": "os.system"},
        {"webhooks": "[]"},
        {"timeout": "never"},
    ],
)
def test_anything_else_is_refused(client: redis.Redis, changes: dict[str, Any]) -> None:
    store(client, **changes)
    with pytest.raises(RefusedJob):
        QueuedJob.fetch(ID, connection=client)
