"""Two front-ends, three workers and one Redis, each a process of its own: one service, also while all of them
are replaced one after the other under load. What became of every call and every job is counted."""

from __future__ import annotations

import asyncio
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import redis
from support.counting_client import CountingClient
from support.faults import resumed
from support.fleet import Fleet
from support.job_plane import dream, opened, undisturbed
from support.stories import Story, faults_of, live, look
from support.worker_process import WorkerProcess

from convlens.errors import Cancelled, ConvLensError, NotFound
from convlens.v1 import job_pb2
from convlens_client import AsyncClient, AsyncOperation
from convlens_workers.jobs import JobStore
from convlens_workers.jobs.record import Filter

WORKERS, CALLERS, JOB_CLIENTS, KINDS, STEPS = 3, 4, 4, 4, 400
LEASE = 2.0
PIXELS = np.random.default_rng(0).random((3, 32, 32), np.float32)
TERMINAL = {str(int(state)).encode() for state in (3, 4, 5)}


@pytest.fixture(scope="module")
def fleet(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    limits = {"lease": LEASE, "checkpoint_interval": 0.2}
    with Fleet(folder, tiny_models, front_ends=2, workers=WORKERS, **limits) as fleet:
        for worker in fleet.workers:
            worker.ready()
        yield fleet


@pytest.fixture
async def ends(fleet: Fleet) -> AsyncIterator[list[AsyncClient]]:
    """A client of each front-end alone."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(AsyncClient(end.address)) for end in fleet.front_ends]


async def submitted(client: AsyncClient, steps: int, seed: int = 0) -> AsyncOperation:
    return await client.submit(dream(steps).deepdream, model="tiny", seed=seed)


async def test_jobs_of_one_front_end_are_watched_and_read_from_the_other(
    ends: list[AsyncClient], tiny_models: Path
) -> None:
    """As many as there are workers, submitted here and there in turn."""
    here = [await submitted(ends[number % 2], 300, seed=number) for number in range(WORKERS)]
    there = [await ends[1 - number % 2].operation(job.name) for number, job in enumerate(here)]

    async def seen(job: AsyncOperation) -> list[Any]:
        return [metadata async for metadata in job.watch()]

    histories = await asyncio.gather(*(seen(job) for job in here + there))
    assert histories[:WORKERS] == histories[WORKERS:]
    for number, (one, other) in enumerate(zip(here, there, strict=True)):
        history = histories[number]
        assert [metadata.state for metadata in history if metadata.final] == ["SUCCEEDED"]
        steps = [metadata.step for metadata in history]
        assert steps == sorted(steps)
        assert len(set(steps)) > 2  # Progress, not only the beginning and the end.
        images = [(await job.result())["image"].tobytes() for job in (one, other)]
        assert images[0] == images[1]
        story = Story(dream(300, seed=number), name=one.name)
        await look(ends[1 - number % 2], story)
        assert faults_of(story, undisturbed(tiny_models, story.request)) == []
    assert await listed(ends[0]) == await listed(ends[1])


async def test_a_job_is_cancelled_and_deleted_from_the_other_side(ends: list[AsyncClient]) -> None:
    mine, (one, other) = await submitted(ends[0], 2000), ends
    watching = asyncio.create_task(states(mine))
    theirs = await other.operation(mine.name)
    async for metadata in theirs.watch():
        if metadata.step:
            break
    await theirs.cancel()
    seen = await asyncio.wait_for(watching, 10)
    assert [state for state in seen if state not in ("QUEUED", "RUNNING")] == ["CANCELLED"] == seen[-1:]
    for job in (mine, theirs):
        with pytest.raises(Cancelled):
            await job.result(10)
    await mine.delete()
    with pytest.raises(NotFound):
        await other.operation(mine.name)
    assert await listed(one) == await listed(other)
    assert (await one.job_stats())[0].counters == (await other.job_stats())[0].counters


async def states(job: AsyncOperation) -> list[str]:
    return [metadata.state async for metadata in job.watch()]


async def listed(client: AsyncClient) -> list[tuple[str, str]]:
    return [(job.name, job.metadata.state) for job in await client.operations()]


class Load:
    """Callers and clients of jobs; each begins anew as soon as it has its answer, until `stop`."""

    def __init__(self, client: AsyncClient) -> None:
        self.stories: list[Story] = []
        self.wrong = 0
        self.up = asyncio.Event()
        """Set once every client follows a job, and the first has ended."""
        self._client, self._stopping = client, asyncio.Event()
        self._rng = random.Random()  # New request ids in each test.

    async def run(self) -> None:
        expected = [await self._ask(kind) for kind in range(KINDS)]
        callers = (self._call(expected) for _ in range(CALLERS))
        clients = (self._jobs() for _ in range(JOB_CLIENTS))
        await asyncio.gather(*callers, *clients, self._lists())

    def stop(self) -> None:
        self._stopping.set()

    async def _call(self, expected: list[Any]) -> None:
        while not self._stopping.is_set():
            kind = self._rng.randrange(KINDS)
            with suppress(ConvLensError):  # The client's account has it.
                self.wrong += await self._ask(kind) != expected[kind]
            await asyncio.sleep(0.05)

    async def _ask(self, kind: int) -> Any:
        """One quick call; something that can be compared."""
        client = self._client
        match kind:
            case 0:
                return await client.classify(PIXELS)
            case 1:
                return (await client.activations(PIXELS, "features.relu4_1"))["features.relu4_1"].tobytes()
            case 2:
                return (await client.attribute(PIXELS, "guided_backprop")).map.tobytes()
            case _:
                return (await client.attack(PIXELS)).adversarial.tobytes()

    async def _jobs(self) -> None:
        while not self._stopping.is_set():
            self.stories.append(story := Story(dream(STEPS, seed=len(self.stories) % KINDS)))
            if len(self.stories) > JOB_CLIENTS:
                self.up.set()
            await live(self._client, story, uuid.uuid4())

    async def _lists(self) -> None:
        """Of jobs: they hold all that was acknowledged before."""
        while not self._stopping.is_set():
            acknowledged = {story.name for story in self.stories if story.name}
            with suppress(ConvLensError):
                self.wrong += not acknowledged <= {name for name, _ in await listed(self._client)}
            await asyncio.sleep(0.5)


class Books(NamedTuple):
    """What Redis and the artifact store say of jobs; counts of all jobs that there ever were."""

    counters: Counter[str]
    ids: set[str]
    """Of jobs that have objects."""

    @classmethod
    def of(cls, fleet: Fleet) -> Books:
        with redis.Redis.from_url(fleet.redis.url, decode_responses=True) as client:
            counters = client.hgetall("convlens:counters:convlens")
        ids = {path.name for path in fleet.artifacts.glob("operations/*")}
        return cls(Counter({name: int(value) for name, value in counters.items()}), ids)


def terminal_events(fleet: Fleet, name: str) -> tuple[int, bool]:
    """How many there are in a job's stream, and whether the last one is."""
    id_ = name.removeprefix("operations/")
    with redis.Redis.from_url(fleet.redis.url) as client:
        states = [event[b"state"] for _, event in client.xrange(f"convlens:events:{id_}")]
    return sum(state in TERMINAL for state in states), states[-1] in TERMINAL


def objects(fleet: Fleet, name: str) -> Counter[str]:
    """How many objects of each kind a job has, beside what a killed process had not written to its end."""
    return Counter(path.parent.name for path in (fleet.artifacts / name).rglob("?" * 64))


async def busy(store: JobStore, worker: WorkerProcess) -> None:
    """Returns once a worker is well inside a job that has a checkpoint, and was never given back before."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        running, _ = await store.list(wanted=Filter(job_pb2.JOB_STATE_RUNNING), page_size=WORKERS)
        for record in running:
            first, half = record.metadata.attempt == 1, record.metadata.step <= STEPS / 2
            if first and half and record.checkpoints and resumed(worker, record.name):
                return
        await asyncio.sleep(0.05)
    raise AssertionError(f"it was in no job for a minute: {worker.describe()}")


async def roll(fleet: Fleet, sign: signal.Signals, front_ends: int, workers: int) -> None:
    """Replace processes, one after the other of a kind; servers and workers at the same time, then Redis."""
    code = 0 if sign == signal.SIGTERM else -sign

    async def roll_front_ends() -> None:
        for number in range(front_ends):
            assert await asyncio.to_thread(fleet.replace_front_end, number, sign) == code

    async def roll_workers() -> None:
        async with opened(fleet.settings) as store:
            for number in range(workers):
                await busy(store, fleet.workers[number])
                assert await asyncio.to_thread(fleet.replace_worker, number, sign) == code

    await asyncio.gather(roll_front_ends(), roll_workers())
    await asyncio.to_thread(fleet.replace_redis, sign)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("sign", "front_ends", "workers", "rounds"),
    [
        (signal.SIGTERM, 2, 2, 1),
        pytest.param(signal.SIGKILL, 2, 1, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2, 3, 8, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 2, 3, 8, marks=pytest.mark.slow),
    ],
)
async def test_a_rolling_restart_loses_no_call_and_no_job(
    fleet: Fleet, tiny_models: Path, sign: signal.Signals, front_ends: int, workers: int, rounds: int
) -> None:
    """Jobs end exactly once: by their streams, by Redis's counters, by what lies in the artifact store."""
    before = Books.of(fleet)
    async with CountingClient(fleet.address) as client:
        load = Load(client)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run())
            await load.up.wait()
            for _ in range(rounds):
                await roll(fleet, sign, front_ends, workers)
            load.stop()
        account, stories = client.account, load.stories
    after = Books.of(fleet)
    counted = after.counters - before.counters
    names = [story.name for story in stories]
    once = [name for name in names if terminal_events(fleet, name) == (1, True)]
    print(f"\n{rounds} x {sign.name}: {account}")
    print(f"{len(names)} jobs acknowledged, {len(once)} finished exactly once; {dict(counted)}")
    print("attempts:", dict(sorted(Counter(story.attempts for story in stories).items())))

    assert account.lost == 0, account.errors
    assert load.wrong == 0
    assert account.refused.total() == account.retried > 0
    assert once == names
    assert len(set(names)) == len(names) == counted["submitted"] == counted["succeeded"]
    assert counted["drained" if sign == signal.SIGTERM else "retried"] > 0, "no job was given back"
    assert {f"operations/{id_}" for id_ in after.ids - before.ids} == set(names)
    for story in stories:
        assert faults_of(story, undisturbed(tiny_models, story.request)) == []
        stored = objects(fleet, story.name)
        if sign == signal.SIGKILL:  # It may have hit between a checkpoint and the word of it.
            stored["checkpoints"] = 1
        assert stored == {"request": 1, "artifacts": 1, "checkpoints": 1}
    here, there = [await listed_by(front_end.address) for front_end in fleet.front_ends]
    assert here == there
    assert {(name, "SUCCEEDED") for name in names} <= set(here)


async def listed_by(address: str) -> list[tuple[str, str]]:
    async with AsyncClient(address) as client:
        return await listed(client)
