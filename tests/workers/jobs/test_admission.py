"""Who may queue what: priorities, tenants, expectations; and how the queues stand."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.jobs import QUEUED, SUCCEEDED
from support.redis_server import RedisServer
from support.worker_by_hand import WorkerByHand

from convlens.errors import InvalidArgument, ResourceExhausted, Unavailable
from convlens.v1 import job_pb2, model_pb2
from convlens_workers.jobs import JobRecord, JobSettings, JobStore
from convlens_workers.jobs.record import Reckoned
from convlens_workers.jobs.stats import speed


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> JobSettings:
    return JobSettings(
        redis=redis_server.url, artifacts=str(tmp_path / "artifacts"), priorities="high", tenant_limit=2
    )


async def submit(store: JobStore, priority: int = 0, cost: float = 0.0, tenant: str = "") -> JobRecord:
    request = job_pb2.SubmitJobRequest(
        model=model_pb2.ModelRef(name="tiny", version=1), priority=priority, deepdream=job_pb2.DeepDream()
    )
    return await store.of(tenant).submit(request, model_digest="abc", reckoned=Reckoned(cost, 7))


async def test_a_priority_is_a_queue_with_its_own_workers(store: JobStore, settings: JobSettings) -> None:
    normal = await submit(store, tenant="a")
    high = [await submit(store, job_pb2.PRIORITY_HIGH, tenant=tenant) for tenant in "bc"]
    assert [record.metadata.priority for record in (normal, *high)] == [2, 3, 3]
    theirs = [await store.of(tenant).get(record.name) for tenant, record in zip("bc", high, strict=True)]
    assert [record.metadata.queue_position for record in theirs] == [0, 1]
    await store.of("b").cancel(high[0].name)
    with WorkerByHand(settings.model_copy(update={"queue": "convlens-high"})) as worker:
        attempt = worker.take()
        assert attempt.id == high[1].id
        assert worker.store.requeue(attempt, crashed=False)
        worker.succeed(worker.take())
    assert (await store.of("c").get(high[1].name)).metadata.state == SUCCEEDED
    assert (await store.of("a").get(normal.name)).metadata.state == QUEUED


@pytest.mark.parametrize("priority", [job_pb2.PRIORITY_LOW, 99])
async def test_a_priority_without_a_queue_is_refused(store: JobStore, priority: int) -> None:
    with pytest.raises(InvalidArgument, match="PRIORITY_NORMAL or PRIORITY_HIGH"):
        await submit(store, priority)


async def test_a_tenant_has_so_many_jobs_at_a_time(store: JobStore, settings: JobSettings) -> None:
    first, _ = [await submit(store, tenant="a") for _ in range(2)]
    with pytest.raises(ResourceExhausted, match="'a' has 2 jobs") as raised:
        await submit(store, tenant="a")
    assert (raised.value.reason, raised.value.retry_after) == ("TENANT_LIMIT", 10.0)
    await submit(store, tenant="b")
    await store.of("a").cancel(first.name)
    await submit(store, tenant="a")
    with WorkerByHand(settings) as worker:
        worker.fail(worker.take(), Unavailable("no"))
    await submit(store, tenant="a")


async def test_what_jobs_took_says_what_the_next_will_take(store: JobStore, settings: JobSettings) -> None:
    first = await submit(store, cost=1e9)
    assert first.metadata.expected_seconds == 0
    with WorkerByHand(settings) as worker:
        attempt = worker.take()
        await asyncio.sleep(0.02)
        worker.succeed(attempt)
    first = await store.get(first.name)
    took = first.metadata.end_time.ToMilliseconds() - first.metadata.start_time.ToMilliseconds()
    second = await submit(store, cost=3e9)
    assert second.metadata.expected_seconds == pytest.approx(3 * max(took, 1) / 1000, rel=0.01)
    assert second.metadata.total_steps == 7


def test_one_job_that_is_unlike_the_others_spoils_nothing() -> None:
    speeds = {b"cpu texture": b"1e9 1.1e9 0.9e9", b"cpu deepdream": b"1e9 50 1e9 1e9 2e13", b"cpu x": b"1e9"}
    assert speed(speeds, "deepdream") == 1e9
    assert speed({**speeds, b"cpu deepdream": b"4e9"}, "deepdream") == 4e9
    assert speed({**speeds, b"cpu deepdream": b"4e9"}, "style_transfer") == 1e9
    assert speed({}, "deepdream") == 0


async def test_only_the_last_jobs_of_a_technique_count(store: JobStore, settings: JobSettings) -> None:
    kept = []
    with WorkerByHand(settings) as worker:
        for number in range(12):
            await submit(store, cost=1e6**number, tenant=str(number))
            attempt = worker.take()
            await asyncio.sleep(0.002)
            worker.succeed(attempt)
        kept = [float(rate) for rate in worker.speeds()[b"cpu deepdream"].split()]
    assert len(kept) == 9
    assert kept == sorted(kept)


async def test_the_workers_of_a_queue_are_counted(store: JobStore, settings: JobSettings) -> None:
    with WorkerByHand(settings, lease=0.01) as dead, WorkerByHand(settings) as worker:
        dead.store.sweep()
        worker.store.sweep()
        await asyncio.sleep(0.02)
        assert [queue.workers for queue in await store.stats()] == [1, 0]
        worker.store.withdraw()
        assert [queue.workers for queue in await store.stats()] == [0, 0]


async def test_the_queues_stand_as_they_stand(store: JobStore, settings: JobSettings) -> None:
    for tenant in "abc":
        await submit(store, tenant=tenant)
    with WorkerByHand(settings) as worker:
        worker.store.requeue(worker.take(), crashed=True)
        worker.succeed(worker.take())
        worker.take()
    normal, high = await store.stats()
    assert (normal.queue, normal.queued, normal.running) == ("convlens", 1, 1)
    assert (normal.workers, high.HasField("workers")) == (0, True)
    assert dict(normal.counters) == {"submitted": 3, "retried": 1, "succeeded": 1}
    assert 0 < normal.oldest_queued_seconds < 60
    assert (high.priority, high.queue, high.queued) == (job_pb2.PRIORITY_HIGH, "convlens-high", 0)
