"""What is submitted, listed, cancelled and deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis
from support.jobs import IMAGE, QUEUED, request, submit
from support.redis_server import free_port
from support.worker_by_hand import WorkerByHand

from convlens.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from convlens.v1 import job_pb2
from convlens_workers.jobs import JobSettings, JobStore, to_operation
from convlens_workers.jobs.record import parse_filter


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


async def test_a_waiting_job_is_cancelled_at_once(store: JobStore, settings: JobSettings) -> None:
    name = await submit(store)
    await store.cancel(name)
    operation = to_operation(await store.get(name))
    assert operation.done
    assert operation.error.code == 1
    with redis.Redis.from_url(settings.redis) as client:
        assert client.llen("rq:queue:convlens") == 0
        assert not client.exists("rq:job:" + name.removeprefix("operations/"))


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
    for text, matching in {
        "state=CANCELLED": [names[1]],
        'technique="deepdream" AND state=JOB_STATE_CANCELLED': [names[1]],
        "technique=deepdream": names[::-1],
        "technique=style": [],
    }.items():
        asked = parse_filter(text)
        listed, _ = await store.list(wanted=asked)
        assert sorted(record.name for record in listed) == sorted(matching), text
    with pytest.raises(InvalidArgument, match="page_token"):
        await store.list(page_token="x")
    with pytest.raises(InvalidArgument, match="state=RUNNING"):
        parse_filter("colour=red")
    for wrong in ("state=RUNNING AND state=QUEUED", "state=LOST", "state=RUNNING OR state=QUEUED", "="):
        with pytest.raises(InvalidArgument, match="filter"):
            parse_filter(wrong)


async def test_delete_removes_record_and_artifacts(
    store: JobStore, worker: WorkerByHand, tmp_path: Path
) -> None:
    name = await submit(store)
    with pytest.raises(FailedPrecondition, match="cancel it first"):
        await store.delete(name)
    worker.succeed(worker.take(), image=IMAGE)
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


async def test_finished_records_expire_and_leave_the_list(
    store: JobStore, worker: WorkerByHand, settings: JobSettings
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


async def commands(settings: JobSettings, listed: Callable[[], Awaitable[object]]) -> int:
    """How many commands Redis gets by that, those of its scripts too."""
    with redis.Redis.from_url(settings.redis) as client:
        seen = [sum(each["calls"] for each in client.info("commandstats").values())]
        await listed()
        seen.append(sum(each["calls"] for each in client.info("commandstats").values()))
    return int(seen[1] - seen[0])


async def test_a_list_reads_no_jobs_of_others(settings: JobSettings) -> None:
    """One page of one job costs the same beside 3,000 of another tenant; also of those of older servers."""
    store = JobStore.open(settings.model_copy(update={"queue_limit": 10_000}))
    ana, bob = store.of("ana"), store.of("bob")
    with redis.Redis.from_url(settings.redis) as client:
        pipe = client.pipeline(transaction=False)
        for number in range(3000):
            id_ = f"{number:032x}"
            pipe.hset(f"convlens:operation:{id_}", mapping={"state": 3, "tenant": "bob", "create_time": 1})
            pipe.zadd("convlens:operations", {f"{9 * 10**12 + number}-{id_}": 0})
        pipe.execute()
        mine = await submit(ana, "mine")
        assert len((await bob.list(page_size=10))[0]) == 10
        assert client.zcard("convlens:index:bob") == 3000
    listed, token = await ana.list(page_size=1)
    assert ([record.name for record in listed], bool(token)) == ([mine], True)
    assert await ana.list(page_size=1, page_token=token) == ([], "")
    assert await commands(settings, lambda: ana.list(page_size=1)) < 8
    assert await commands(settings, lambda: ana.list(page_size=1, wanted=parse_filter("state=FAILED"))) < 12
    await store.close()


async def test_a_record_that_cannot_be_read_harms_no_other(
    store: JobStore, settings: JobSettings, worker: WorkerByHand
) -> None:
    broken, whole = await submit(store), await submit(store)
    with redis.Redis.from_url(settings.redis) as client:
        client.hset("convlens:operation:" + broken.removeprefix("operations/"), "losses", "{")
    assert [record.name for record in (await store.list())[0]] == [whole]
    with pytest.raises(DataLoss, match="losses"):
        await store.get(broken)
    with pytest.raises(DataLoss, match="losses"):
        worker.take()


async def test_indexes_do_not_outgrow_their_jobs(settings: JobSettings) -> None:
    """Nobody lists; those that expire leave with what is submitted."""
    store = JobStore.open(settings.model_copy(update={"queue_limit": 10_000})).of("ana")
    with redis.Redis.from_url(settings.redis) as client:
        for _ in range(3):
            for _ in range(40):
                await submit(store)
            for key in client.scan_iter("convlens:operation:*"):
                client.delete(key)
        for _ in range(20):
            await submit(store)
        assert [client.zcard(key) for key in ("convlens:operations", "convlens:index:ana")] == [20, 20]
    await store.close()


async def test_counters_are_those_of_whoever_asks(settings: JobSettings) -> None:
    store = JobStore.open(settings)
    ana, bob = store.of("ana"), store.of("bob")
    await ana.cancel(await submit(ana))
    await submit(bob)
    counters = [dict((await each.stats())[0].counters) for each in (ana, bob, store.of("eve"), store)]
    assert counters == [
        {"submitted": 1, "cancelled": 1},
        {"submitted": 1},
        {},
        {"submitted": 2, "cancelled": 1},
    ]
    await store.close()
