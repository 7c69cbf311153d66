"""The job plane against a real Redis, without a worker: a worker's moves are made by hand."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from support.redis_server import RedisServer, free_port

from convlens.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
)
from convlens.v1 import job_pb2, model_pb2, tensor_pb2
from convlens_workers.jobs import ArtifactStore, JobSettings, JobStore, to_operation
from convlens_workers.jobs.ledger import Attempt, Ledger
from convlens_workers.jobs.record import parse_filter

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = range(1, 6)


def request(request_id: str = "", seed: int = 0) -> job_pb2.SubmitJobRequest:
    return job_pb2.SubmitJobRequest(
        request_id=request_id,
        model=model_pb2.ModelRef(name="tiny", version=1),
        seed=seed,
        deepdream=job_pb2.DeepDream(steps=3),
    )


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> JobSettings:
    return JobSettings(redis=redis_server.url, artifacts=str(tmp_path / "artifacts"), queue_limit=3)


@pytest.fixture
async def store(settings: JobSettings) -> AsyncIterator[JobStore]:
    store = JobStore.open(settings)
    yield store
    await store.close()


@pytest.fixture
def artifacts(settings: JobSettings) -> ArtifactStore:
    return ArtifactStore(settings.artifacts_url())


@pytest.fixture
def ledger(settings: JobSettings) -> Ledger:
    return Ledger(redis.Redis.from_url(settings.redis), settings, lease=1.0)


async def submit(store: JobStore, request_id: str = "", seed: int = 0) -> str:
    return (await store.submit(request(request_id, seed), model_digest="abc")).name


def take(ledger: Ledger, settings: JobSettings) -> Attempt:
    """What RQ does, then what our worker does."""
    with redis.Redis.from_url(settings.redis) as client:
        taken = client.blmove("rq:queue:convlens", "rq:queue:convlens:intermediate", 1)
    assert taken is not None
    attempt = ledger.claim(taken.decode(), "cpu")
    assert attempt is not None
    return attempt


def succeed(ledger: Ledger, artifacts: ArtifactStore, attempt: Attempt, data: bytes = b"abcd") -> bool:
    digest = artifacts.put(attempt.id, "artifacts", data)
    header = tensor_pb2.TensorHeader(
        name="image", datatype="UINT8", shape=[len(data)], total_bytes=len(data), sha256=digest
    )
    return ledger.succeed(attempt, job_pb2.JobResult(artifacts=[header])) is not None


async def test_submitted_job_is_an_operation(store: JobStore) -> None:
    record = await store.submit(request(), model_digest="abc")
    operation = to_operation(record)
    metadata = job_pb2.JobMetadata()
    assert operation.metadata.Unpack(metadata)
    assert operation.name == record.name
    assert not operation.done
    assert metadata.state == QUEUED
    assert metadata.technique == "deepdream"
    assert (metadata.model.name, metadata.model.version, metadata.model_digest) == ("tiny", 1, "abc")
    assert metadata.create_time.ToSeconds() > 0


async def test_the_same_request_id_fifty_times_at_once_is_one_job(
    store: JobStore, settings: JobSettings
) -> None:
    names = await asyncio.gather(*(submit(store, "id-1") for _ in range(50)))
    assert len(set(names)) == 1
    with redis.Redis.from_url(settings.redis) as client:
        assert client.llen("rq:queue:convlens") == 1


async def test_a_request_id_with_another_payload_is_refused(store: JobStore) -> None:
    name = await submit(store, "id-1")
    with pytest.raises(AlreadyExists, match="id-1"):
        await submit(store, "id-1", seed=7)
    assert await submit(store, "id-1") == name


async def test_a_full_queue_says_when_to_come_back(store: JobStore) -> None:
    names = [await submit(store, str(i)) for i in range(3)]
    with pytest.raises(ResourceExhausted, match="3 jobs wait") as raised:
        await submit(store)
    assert raised.value.retry_after is not None
    assert await submit(store, "0") == names[0]


async def test_queue_positions(store: JobStore) -> None:
    names = [await submit(store) for _ in range(3)]
    assert [(await store.get(name)).metadata.queue_position for name in names] == [0, 1, 2]
    await store.cancel(names[0])
    assert [(await store.get(name)).metadata.queue_position for name in names[1:]] == [0, 1]


async def test_the_request_reaches_the_worker_as_it_was(
    store: JobStore, ledger: Ledger, settings: JobSettings, artifacts: ArtifactStore
) -> None:
    await submit(store, seed=9)
    attempt = take(ledger, settings)
    stored = artifacts.get(attempt.id, "request", attempt.request)
    assert job_pb2.SubmitJobRequest.FromString(stored) == request(seed=9)


async def test_success_is_read_from_any_offset(
    store: JobStore, ledger: Ledger, settings: JobSettings, artifacts: ArtifactStore
) -> None:
    name = await submit(store)
    with pytest.raises(FailedPrecondition, match="QUEUED"):
        await store.read(name, "image")
    data = bytes(range(256)) * 5000
    assert succeed(ledger, artifacts, take(ledger, settings), data)
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


async def test_damaged_artifact_is_data_loss(
    store: JobStore, ledger: Ledger, settings: JobSettings, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    name = await submit(store)
    assert succeed(ledger, artifacts, take(ledger, settings))
    (path,) = (tmp_path / "artifacts").rglob("artifacts/*")
    for damaged in (b"abcx", b"abc"):
        path.write_bytes(damaged)
        _, stream = await store.read(name, "image")
        with pytest.raises(DataLoss):
            _ = [piece async for piece in stream]


async def test_stale_token_cannot_write(
    store: JobStore, ledger: Ledger, settings: JobSettings, artifacts: ArtifactStore
) -> None:
    name = await submit(store)
    stale = take(ledger, settings)
    assert ledger.requeue(stale, crashed=True) is not None
    fresh = take(ledger, settings)
    assert ledger.update(stale, {"step": 99}).lost
    assert ledger.checkpoint(stale, "f" * 64) is None
    assert not succeed(ledger, artifacts, stale, b"stale")
    assert ledger.fail(stale, Unavailable("late")) is None
    assert ledger.requeue(stale, crashed=False) is None
    record = await store.get(name)
    assert (record.metadata.state, record.metadata.step, record.checkpoints) == (RUNNING, 0, ())
    assert succeed(ledger, artifacts, fresh, b"fresh")
    assert not succeed(ledger, artifacts, fresh, b"twice")
    assert (await store.get(name)).metadata.attempt == 2


async def test_a_waiting_job_is_cancelled_at_once(store: JobStore, settings: JobSettings) -> None:
    name = await submit(store)
    await store.cancel(name)
    operation = to_operation(await store.get(name))
    assert operation.done
    assert operation.error.code == 1
    with redis.Redis.from_url(settings.redis) as client:
        assert client.llen("rq:queue:convlens") == 0
        assert not client.exists("rq:job:" + name.removeprefix("operations/"))


@pytest.mark.parametrize("end", ["succeed", "requeue", "sweep"])
async def test_a_cancelled_job_ends_in_nothing_else(
    end: str, store: JobStore, ledger: Ledger, settings: JobSettings, artifacts: ArtifactStore
) -> None:
    name = await submit(store)
    attempt = take(ledger, settings)
    await store.cancel(name)
    await store.cancel(name)
    record = await store.get(name)
    assert record.metadata.state == RUNNING
    assert record.metadata.cancel_requested
    assert ledger.update(attempt).cancel_requested
    if end == "succeed":
        succeed(ledger, artifacts, attempt)
    elif end == "requeue":
        ledger.requeue(attempt, crashed=False)
    else:
        await sweep_until_overdue(ledger)
    record = await store.get(name)
    assert record.metadata.state == CANCELLED
    await store.cancel(name)
    assert not succeed(ledger, artifacts, attempt)
    assert await store.get(name) == record


async def sweep_until_overdue(ledger: Ledger) -> list[str]:
    for _ in range(60):
        if taken := ledger.sweep():
            return taken
        await asyncio.sleep(0.05)
    raise AssertionError("no lease ran out")


async def test_a_lost_lease_requeues_once(store: JobStore, ledger: Ledger, settings: JobSettings) -> None:
    name = await submit(store)
    attempt = take(ledger, settings)
    ledger.sweep()
    assert await sweep_until_overdue(ledger) == [attempt.id]
    for _ in range(5):
        ledger.sweep()
        await asyncio.sleep(0.05)
    with redis.Redis.from_url(settings.redis) as client:
        assert client.lrange("rq:queue:convlens", 0, -1) == [attempt.id.encode()]
    record = await store.get(name)
    assert (record.metadata.state, record.token) == (QUEUED, "")
    assert ledger.update(attempt).lost


async def test_a_renewed_lease_is_kept(store: JobStore, ledger: Ledger, settings: JobSettings) -> None:
    await submit(store)
    attempt = take(ledger, settings)
    for _ in range(30):
        assert not ledger.update(attempt).lost
        assert ledger.sweep() == []
        await asyncio.sleep(0.05)


async def test_after_a_pause_of_all_sweeps_leases_get_one_more_term(
    store: JobStore, ledger: Ledger, settings: JobSettings
) -> None:
    """As after an outage of Redis: the owners must have the time to come back."""
    await submit(store)
    attempt = take(ledger, settings)
    ledger.sweep()
    await asyncio.sleep(1.2)
    assert ledger.sweep() == []
    assert not ledger.update(attempt).lost


async def test_a_job_taken_by_a_worker_that_died_before_its_claim_comes_back(
    store: JobStore, ledger: Ledger, settings: JobSettings
) -> None:
    name = await submit(store)
    with redis.Redis.from_url(settings.redis) as client:
        client.blmove("rq:queue:convlens", "rq:queue:convlens:intermediate", 1)
        ledger.sweep()
        await sweep_until_overdue(ledger)
        assert client.llen("rq:queue:convlens:intermediate") == 0
    assert take(ledger, settings).id == name.removeprefix("operations/")


async def test_a_claim_after_the_sweep_leaves_one_job(
    store: JobStore, ledger: Ledger, settings: JobSettings
) -> None:
    """A worker was slow between taking and claiming; the job is in the queue again, and then its own."""
    name = await submit(store)
    id_ = name.removeprefix("operations/")
    with redis.Redis.from_url(settings.redis) as client:
        client.blmove("rq:queue:convlens", "rq:queue:convlens:intermediate", 1)
        ledger.sweep()
        await sweep_until_overdue(ledger)
        assert ledger.claim(id_, "cpu") is not None
        assert client.llen("rq:queue:convlens") == 0
        assert ledger.claim(id_, "cpu") is None
    assert await sweep_until_overdue(ledger) == [id_]


async def test_sweeps_at_once_requeue_once(store: JobStore, ledger: Ledger, settings: JobSettings) -> None:
    await submit(store)
    attempt = take(ledger, settings)
    ledger.sweep()
    swept: list[str] = []
    async with asyncio.timeout(5):
        while not swept:
            rounds = await asyncio.gather(*(asyncio.to_thread(ledger.sweep) for _ in range(8)))
            swept = [id_ for ids in rounds for id_ in ids]
            await asyncio.sleep(0.05)
    assert swept == [attempt.id]
    with redis.Redis.from_url(settings.redis) as client:
        assert client.lrange("rq:queue:convlens", 0, -1) == [attempt.id.encode()]


async def test_a_job_whose_workers_die_is_given_up(
    store: JobStore, ledger: Ledger, settings: JobSettings
) -> None:
    name = await submit(store)
    for _ in range(2):
        assert ledger.requeue(take(ledger, settings), crashed=True) is not None
    ledger.checkpoint(attempt := take(ledger, settings), "a" * 64)
    for _ in range(3):
        assert (await store.get(name)).metadata.state == RUNNING
        assert ledger.requeue(attempt, crashed=True) is not None
        if (await store.get(name)).metadata.state == QUEUED:
            attempt = take(ledger, settings)
    record = await store.get(name)
    assert record.metadata.state == FAILED
    assert record.error is not None
    assert "died" in record.error.message


async def test_drains_do_not_count_as_crashes(store: JobStore, ledger: Ledger, settings: JobSettings) -> None:
    name = await submit(store)
    for _ in range(5):
        assert ledger.requeue(take(ledger, settings), crashed=False) is not None
    record = await store.get(name)
    assert (record.metadata.state, record.metadata.attempt) == (QUEUED, 5)


async def test_two_checkpoints_are_kept(store: JobStore, ledger: Ledger, settings: JobSettings) -> None:
    name = await submit(store)
    attempt = take(ledger, settings)
    dropped = [ledger.checkpoint(attempt, digest) for digest in ("a", "b", "b", "c", "b")]
    assert dropped == ["", "", "", "a", ""]
    assert (await store.get(name)).checkpoints == ("b", "c")


async def test_watchers_see_every_event_once_and_resume(
    store: JobStore, ledger: Ledger, settings: JobSettings, artifacts: ArtifactStore
) -> None:
    name = await submit(store)
    watchers = [asyncio.create_task(collect(store, name)) for _ in range(5)]
    attempt = take(ledger, settings)
    for step in range(3):
        ledger.update(attempt, {"step": step + 1, "total_steps": 3, "losses": '{"x": 1.5}'}, preview=b"jpeg")
        await asyncio.sleep(0.01)
    succeed(ledger, artifacts, attempt)
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


async def test_a_failure_ends_the_watch_with_its_error(
    store: JobStore, ledger: Ledger, settings: JobSettings
) -> None:
    name = await submit(store)
    ledger.fail(take(ledger, settings), InvalidArgument("octaves", field="deepdream.octaves"))
    events = [event async for event in store.watch(name)]
    assert [error.code if error else None for _, _, error in events] == [None, None, 3]
    operation = to_operation(await store.get(name))
    assert operation.error.message == "octaves"


async def test_wait(store: JobStore, ledger: Ledger, settings: JobSettings, artifacts: ArtifactStore) -> None:
    name = await submit(store)
    assert (await store.wait(name, 0.05)).metadata.state == QUEUED
    waiting = asyncio.create_task(store.wait(name))
    await asyncio.sleep(0.05)
    succeed(ledger, artifacts, take(ledger, settings))
    assert (await asyncio.wait_for(waiting, 2)).metadata.state == SUCCEEDED


async def test_lists_go_page_by_page_from_the_newest(store: JobStore) -> None:
    names = []
    for _ in range(3):
        names.append(await submit(store))
    await store.cancel(names[1])
    listed, token = await store.list(page_size=2)
    assert token
    rest, token = await store.list(page_size=2, page_token=token)
    assert not token
    assert sorted(record.name for record in listed + rest) == sorted(names)
    for text, found in {
        "state=CANCELLED": [names[1]],
        'technique="deepdream" AND state=JOB_STATE_CANCELLED': [names[1]],
        "technique=deepdream": names[::-1],
        "technique=style": [],
    }.items():
        asked = parse_filter(text)
        listed, _ = await store.list(state=asked.state, technique=asked.technique)
        assert sorted(record.name for record in listed) == sorted(found), text
    with pytest.raises(InvalidArgument, match="page_token"):
        await store.list(page_token="x")
    with pytest.raises(InvalidArgument, match="state=RUNNING"):
        parse_filter("colour=red")
    for wrong in ("state=RUNNING AND state=QUEUED", "state=LOST", "state=RUNNING OR state=QUEUED", "="):
        with pytest.raises(InvalidArgument, match="filter"):
            parse_filter(wrong)


async def test_delete_removes_record_and_artifacts(
    store: JobStore, ledger: Ledger, settings: JobSettings, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    name = await submit(store)
    with pytest.raises(FailedPrecondition, match="cancel it first"):
        await store.delete(name)
    succeed(ledger, artifacts, take(ledger, settings))
    await store.delete(name)
    with pytest.raises(NotFound):
        await store.get(name)
    assert (await store.list())[0] == []
    assert not [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    for call in (store.delete, store.cancel, store.get, store.wait):
        with pytest.raises(NotFound):
            await call(name)


@pytest.mark.parametrize(
    "name", ["", "operations/", "operations/../x", "models/" + "0" * 32, "operations/" + "G" * 32, "0" * 32]
)
async def test_malformed_names_are_not_found(name: str, store: JobStore) -> None:
    with pytest.raises(NotFound, match="32 hexadecimal"):
        await store.get(name)


@pytest.mark.parametrize("event_id", ["x", "1", "1-", "1-2-3", "9" * 30 + "-0"])
async def test_malformed_event_ids_are_out_of_range(event_id: str, store: JobStore) -> None:
    name = await submit(store)
    with pytest.raises(OutOfRange, match="after_event_id"):
        await anext(store.watch(name, event_id))


async def test_finished_records_expire_and_leave_the_list(
    store: JobStore, ledger: Ledger, settings: JobSettings
) -> None:
    name = await submit(store)
    await store.cancel(name)
    expires = (await store.get(name)).metadata.expire_time.ToSeconds()
    with redis.Redis.from_url(settings.redis) as client:
        id_ = name.removeprefix("operations/")
        left = client.pttl(f"convlens:operation:{id_}") / 1000
        assert abs(time.time() + left - expires) < 5
        assert client.pttl(f"convlens:events:{id_}") > 0
        client.delete(f"convlens:operation:{id_}")
        assert (await store.list())[0] == []
        assert client.zcard("convlens:operations") == 0


async def test_redis_away_is_unavailable(tmp_path: Path) -> None:
    store = JobStore.open(
        JobSettings(redis=f"redis://127.0.0.1:{free_port()}/0", artifacts=str(tmp_path / "artifacts"))
    )
    for call in (submit(store), store.ping(), store.list()):
        with pytest.raises(Unavailable) as raised:
            await call
        assert raised.value.retry_after is not None
    await store.close()
