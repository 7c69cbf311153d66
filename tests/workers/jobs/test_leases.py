"""Whose a job is: tokens, leases, sweeps, crashes, checkpoints."""

from __future__ import annotations

import asyncio

import pytest
import redis
from support.jobs import CANCELLED, FAILED, IMAGE, QUEUED, RUNNING, SUCCEEDED, request, submit
from support.worker_by_hand import WorkerByHand

from convlens.errors import Unavailable
from convlens_workers.jobs import JobSettings, JobStore


async def test_stale_token_cannot_write(store: JobStore, worker: WorkerByHand) -> None:
    name = await submit(store)
    stale = worker.take()
    assert worker.store.requeue(stale, crashed=True)
    fresh = worker.take()
    assert worker.store.update(stale, {"step": 99}).lost
    assert worker.store.checkpoint(stale, "f" * 64) is None
    assert not worker.offer(stale, image=IMAGE)
    assert not worker.store.fail(stale, Unavailable("late"))
    assert not worker.store.requeue(stale, crashed=False)
    record = await store.get(name)
    assert (record.metadata.state, record.metadata.step, record.checkpoints) == (RUNNING, 0, ())
    worker.succeed(fresh, image=IMAGE)
    assert worker.store.fail(fresh, Unavailable("late")), "told again that it has ended it, not taken down"
    record = await store.get(name)
    assert (record.metadata.state, record.metadata.attempt) == (SUCCEEDED, 2)


@pytest.mark.parametrize("end", ["succeed", "requeue", "sweep"])
async def test_a_cancelled_job_ends_in_nothing_else(end: str, store: JobStore, worker: WorkerByHand) -> None:
    name = await submit(store)
    attempt = worker.take()
    await store.cancel(name)
    await store.cancel(name)
    record = await store.get(name)
    assert record.metadata.state == RUNNING
    assert record.metadata.cancel_requested
    assert worker.store.update(attempt).cancel_requested
    if end == "succeed":
        worker.offer(attempt, image=IMAGE)
    elif end == "requeue":
        worker.store.requeue(attempt, crashed=False)
    else:
        await sweep_until_overdue(worker)
    record = await store.get(name)
    assert record.metadata.state == CANCELLED
    await store.cancel(name)
    worker.offer(attempt, image=IMAGE)
    assert await store.get(name) == record


async def sweep_until_overdue(worker: WorkerByHand) -> list[str]:
    for _ in range(60):
        if taken := worker.store.sweep():
            return taken
        await asyncio.sleep(0.05)
    raise AssertionError("no lease ran out")


async def test_a_lost_lease_requeues_once(
    store: JobStore, worker: WorkerByHand, settings: JobSettings
) -> None:
    name = await submit(store)
    attempt = worker.take()
    worker.store.sweep()
    assert await sweep_until_overdue(worker) == [attempt.id]
    for _ in range(5):
        worker.store.sweep()
        await asyncio.sleep(0.05)
    with redis.Redis.from_url(settings.redis) as client:
        assert client.lrange("rq:queue:convlens", 0, -1) == [attempt.id.encode()]
    record = await store.get(name)
    assert (record.metadata.state, record.token) == (QUEUED, "")
    assert worker.store.update(attempt).lost


async def test_a_renewed_lease_is_kept(store: JobStore, worker: WorkerByHand) -> None:
    await submit(store)
    attempt = worker.take()
    for _ in range(30):
        assert not worker.store.update(attempt).lost
        assert worker.store.sweep() == []
        await asyncio.sleep(0.05)


async def test_after_a_pause_of_all_sweeps_leases_get_one_more_term(
    store: JobStore, worker: WorkerByHand
) -> None:
    """As after an outage of Redis: the owners must have the time to come back."""
    await submit(store)
    attempt = worker.take()
    worker.store.sweep()
    await asyncio.sleep(1.2)
    assert worker.store.sweep() == []
    assert not worker.store.update(attempt).lost


async def test_a_job_taken_by_a_worker_that_died_before_its_claim_comes_back(
    store: JobStore, worker: WorkerByHand, settings: JobSettings
) -> None:
    name = await submit(store)
    with redis.Redis.from_url(settings.redis) as client:
        client.blmove("rq:queue:convlens", "rq:queue:convlens:intermediate", 1)
        worker.store.sweep()
        await sweep_until_overdue(worker)
        assert client.llen("rq:queue:convlens:intermediate") == 0
    assert worker.take().id == name.removeprefix("operations/")


async def test_a_job_that_no_worker_began_keeps_its_place_and_has_not_crashed(
    store: JobStore, worker: WorkerByHand, settings: JobSettings
) -> None:
    """Redis went while it handed the job out, once and again."""
    names = [await submit(store, seed=number) for number in range(2)]
    with redis.Redis.from_url(settings.redis) as client:
        for _ in range(3):
            client.blmove("rq:queue:convlens", "rq:queue:convlens:intermediate", 1)
            worker.store.sweep()
            await sweep_until_overdue(worker)
    assert [(await store.get(name)).metadata.state for name in names] == [QUEUED, QUEUED]
    assert [f"operations/{worker.take().id}" for _ in names] == names


async def test_a_claim_after_the_sweep_leaves_one_job(
    store: JobStore, worker: WorkerByHand, settings: JobSettings
) -> None:
    """A worker was slow between taking and claiming; the job is in the queue again, and then its own."""
    name = await submit(store)
    id_ = name.removeprefix("operations/")
    with redis.Redis.from_url(settings.redis) as client:
        client.blmove("rq:queue:convlens", "rq:queue:convlens:intermediate", 1)
        worker.store.sweep()
        await sweep_until_overdue(worker)
        assert worker.store.claim(id_, "cpu") is not None
        assert client.llen("rq:queue:convlens") == 0
        assert worker.store.claim(id_, "cpu") is None
    assert await sweep_until_overdue(worker) == [id_]


async def test_sweeps_at_once_requeue_once(
    store: JobStore, worker: WorkerByHand, settings: JobSettings
) -> None:
    await submit(store)
    attempt = worker.take()
    worker.store.sweep()
    swept: list[str] = []
    async with asyncio.timeout(5):
        while not swept:
            rounds = await asyncio.gather(*(asyncio.to_thread(worker.store.sweep) for _ in range(8)))
            swept = [id_ for ids in rounds for id_ in ids]
            await asyncio.sleep(0.05)
    assert swept == [attempt.id]
    with redis.Redis.from_url(settings.redis) as client:
        assert client.lrange("rq:queue:convlens", 0, -1) == [attempt.id.encode()]


async def test_a_job_whose_workers_die_is_given_up(store: JobStore, worker: WorkerByHand) -> None:
    name = await submit(store)
    for _ in range(2):
        assert worker.store.requeue(worker.take(), crashed=True)
    worker.store.checkpoint(attempt := worker.take(), "a" * 64)
    for _ in range(3):
        assert (await store.get(name)).metadata.state == RUNNING
        assert worker.store.requeue(attempt, crashed=True)
        if (await store.get(name)).metadata.state == QUEUED:
            attempt = worker.take()
    record = await store.get(name)
    assert record.metadata.state == FAILED
    assert record.error is not None
    assert "died" in record.error.message


async def test_drains_do_not_count_as_crashes(store: JobStore, worker: WorkerByHand) -> None:
    name = await submit(store)
    for _ in range(5):
        assert worker.store.requeue(worker.take(), crashed=False)
    record = await store.get(name)
    assert (record.metadata.state, record.metadata.attempt) == (QUEUED, 5)


@pytest.mark.parametrize("resumable", [True, False, None], ids=["resumable", "not", "of an older server"])
async def test_what_an_ended_job_leaves_behind(
    resumable: bool | None, store: JobStore, worker: WorkerByHand, settings: JobSettings
) -> None:
    record = await store.submit(request(), model_digest="abc", resumable=bool(resumable))
    if resumable is None:
        with redis.Redis.from_url(settings.redis) as client:
            client.hdel(f"convlens:operation:{record.id}", "resumable", "tags")
    attempt = worker.take()
    for digest in ("a", "b"):
        worker.store.checkpoint(attempt, digest)
    await store.cancel(record.name)
    assert worker.store.requeue(attempt, crashed=True)
    assert (await store.get(record.name)).checkpoints == (("b",) if resumable else ())
    assert worker.store.leave(attempt, "c", []) == bool(resumable)
    ended = await store.get(record.name)
    assert ended.checkpoints == (("c",) if resumable else ())
    assert (ended.metadata.state, ended.metadata.resumable) == (CANCELLED, bool(resumable))
    await store.delete(record.name)
    assert not worker.store.leave(attempt, "d", [])


async def test_two_checkpoints_are_kept(store: JobStore, worker: WorkerByHand) -> None:
    name = await submit(store)
    attempt = worker.take()
    dropped = [worker.store.checkpoint(attempt, digest) for digest in ("a", "b", "b", "c", "c", "b")]
    assert dropped == ["", "", "", "a", "a", ""]
    assert (await store.get(name)).checkpoints == ("b", "c")


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_step_of_redis_clock_loses_no_job_of_a_dead_worker(
    hours: int, store: JobStore, worker: WorkerByHand, settings: JobSettings
) -> None:
    """What Redis keeps is as if its clock had been changed by hours: requeued within two leases."""
    await submit(store)
    attempt = worker.take()
    worker.store.sweep()
    shift = -hours * 3_600_000
    with redis.Redis.from_url(settings.redis) as client:
        client.zincrby("convlens:leases:convlens", shift, attempt.id)
        client.incrby("convlens:swept:convlens", shift)
        for name in client.zrange("convlens:swept:by:convlens", 0, -1):
            client.zincrby("convlens:swept:by:convlens", shift, name)
    assert await sweep_until_overdue(worker) == [attempt.id]
    assert (await store.stats())[0].workers == 1
