"""Lives of jobs, from submission to deletion, in which every operation of both stores happens at least once.

Server and worker are real but for the technique: `Steps` is a device process without torch, whose result
follows from all its steps. Clients and workers try again what says when to come back, as they do elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import redis
from support.jobs import CANCELLED, FAILED, SUCCEEDED, request

from convlens import wire
from convlens.errors import ConvLensError, DataLoss, NotFound, Unavailable, from_status, to_status
from convlens.v1 import job_pb2
from convlens_workers import messages
from convlens_workers.attempt import AttemptRunner
from convlens_workers.jobs import ArtifactStore, JobRecord, JobStore
from convlens_workers.jobs import connection as timeouts
from convlens_workers.jobs.connection import connect_worker
from convlens_workers.jobs.record import operation_id
from convlens_workers.jobs.redis_errors import AWAY
from convlens_workers.jobs.scripts import OPERATION, UNTIDY
from convlens_workers.jobs.tidying import named
from convlens_workers.jobs.worker_job_store import WorkerJobStore
from convlens_workers.settings import WorkerSettings

LEASE: Final = 0.2
STEPS: Final = 3
TRIES: Final = 6
METRICS: Final[Any] = SimpleNamespace(began=lambda: None, ended=lambda _: None, checkpointed=lambda _: None)
OF_NO_JOB: Final = (
    *("convlens:counters:", "convlens:throughput:", "convlens:swept", "convlens:tidied", "convlens:indexed"),
    "rq:queues",
)
"""How the keys begin that stay when there is no job any more."""


def state_after(steps: int) -> bytes:
    """The state of a job after so many steps, 32 bytes; after `STEPS` of them it is the result."""
    state = b"\0" * 32
    for _ in range(steps):
        state = hashlib.sha256(state).digest()
    return state


class Steps:
    """A device process that makes `STEPS` steps, and a checkpoint of each.

    Args:
        until: the step after which it does nothing but wait for a stop.
        dies: whether it dies there instead.
    """

    device, pid = "cpu", 0

    def __init__(self, artifacts: ArtifactStore, *, until: int = STEPS, dies: bool = False) -> None:
        self._artifacts, self._until, self._dies = artifacts, until, dies
        self._events: Iterator[messages.Event] = iter(())
        self._stop: messages.Stop | None = None

    def send(self, message: messages.Start | messages.Stop) -> None:
        if isinstance(message, messages.Start):
            self._events = self._run(message)
        else:
            self._stop = message

    def receive(self, _: float) -> messages.Event | None:
        try:
            return next(self._events)
        except ConvLensError as error:
            return messages.Failed(to_status(error).SerializeToString(deterministic=True))

    def kill(self) -> None:
        """It is dead already."""

    def _run(self, start: messages.Start) -> Iterator[messages.Event]:
        insist(lambda: self._artifacts.get(start.operation, "request", start.request))
        state, number = self._last(start), 0
        while state_after(number) != state:
            number += 1
        while number < self._until:
            number, state = number + 1, hashlib.sha256(state).digest()
            yield messages.Progress(number, STEPS, {}, b"", True, None)
            yield from self._checkpoint(start, state)
        if number == STEPS:
            header = wire.header("image", np.frombuffer(state, np.uint8))
            header.sha256 = insist(lambda: self._artifacts.put(start.operation, "artifacts", state))
            yield messages.Saved(header.SerializeToString())
            yield messages.Finished(job_pb2.JobResult(artifacts=[header]).SerializeToString())
        elif self._dies:
            yield messages.Died("by itself")
        for _ in range(200):
            if self._stop is not None:
                if self._stop.save:  # One step more than it has told of.
                    yield from self._checkpoint(start, hashlib.sha256(state).digest())
                yield messages.Stopped()
            yield messages.Waiting()
        raise AssertionError("nobody stops it")

    def _last(self, start: messages.Start) -> bytes:
        for digest in start.checkpoints:
            with suppress(NotFound, DataLoss):
                return bytes(insist(lambda: self._artifacts.get(start.operation, "checkpoints", digest)))  # noqa: B023
        return state_after(0)

    def _checkpoint(self, start: messages.Start, state: bytes) -> Iterator[messages.Event]:
        with suppress(Unavailable):
            yield messages.Checkpointed(self._artifacts.put(start.operation, "checkpoints", state), 0.0)


def insist(call: Callable[[], Any]) -> Any:
    """What `call` gives; tried again while it says that it is worth it."""
    for tries in range(TRIES):
        try:
            return call()
        except AWAY:
            if tries == TRIES - 1:
                raise
    raise AssertionError


Make = Callable[[ArtifactStore], Steps]


class Watched:
    """Notes which methods of an object are asked for."""

    def __init__(self, inner: Any, seen: set[str]) -> None:
        self._inner, self._seen = inner, seen

    def __getattr__(self, name: str) -> Any:
        self._seen.add(name)
        return getattr(self._inner, name)


class Plane:
    """A server's store and a worker's, both connected at `url`, and what looks at their backs.

    Args:
        direct: the URL of the same Redis, with nothing in between.
        worker: another URL for the worker's.
    """

    def __init__(self, url: str, direct: str, folder: Path, worker: str = "") -> None:
        self.folder = folder
        self.settings = WorkerSettings(redis=url, artifacts=str(folder), grace=2.0)
        self.seen: dict[type, set[str]] = {JobStore: set(), WorkerJobStore: set()}
        self.server: Any = Watched(JobStore.open(self.settings), self.seen[JobStore])
        self.artifacts = ArtifactStore(self.settings.artifacts_url())
        connection = connect_worker(
            worker or url, socket_connect_timeout=2.0, socket_timeout=timeouts.SOCKET_TIMEOUT
        )
        store = WorkerJobStore(connection, self.settings, LEASE)
        self.worker: Any = Watched(store, self.seen[WorkerJobStore])
        self.redis: Any = redis.Redis.from_url(direct)
        self.behind = WorkerJobStore(self.redis, self.settings, LEASE)
        self.redis.flushall()
        self.names: list[str] = []
        self.missing: set[str] = set()
        """Objects that records named, and that were not there."""

    async def close(self) -> None:
        """Its connections."""
        await self.server.close()
        self.redis.close()

    async def call(self, call: Callable[[], Awaitable[Any]], *, gone: bool = False) -> Any:
        """A call of a client, which tries again; with `gone` what is not there after that counts as done."""
        for tries in range(TRIES):
            try:
                return await call()
            except NotFound:
                if not (gone and tries):
                    raise
                return None
            except AWAY:
                if tries == TRIES - 1:
                    raise
        raise AssertionError

    async def submit(self, id_: str, **options: Any) -> str:
        """A job's name, which is known even if the reply is not."""
        submitted = await self.call(
            lambda: self.server.submit(request(id_), model_digest="abc", resumable=True, **options)
        )
        self.names.append(submitted.name)
        return str(submitted.name)

    async def attempt(self, make: Make | None, *, draining: bool = False) -> None:
        """One attempt at the next job, or a sweep where none waits; without `make` it dies once it has it."""
        moved = self.redis.lmove("rq:queue:convlens", "rq:queue:convlens:intermediate", "LEFT", "RIGHT")
        with suppress(*AWAY):
            if moved is None:
                self.worker.sweep()
                await asyncio.sleep(LEASE / 10)
            elif (attempt := self.worker.claim(moved.decode(), "cpu")) and make:
                device: Any = make(self.artifacts)
                runner = AttemptRunner(
                    attempt, device, self.worker, self.artifacts, self.settings, lambda: draining, METRICS
                )
                await asyncio.to_thread(runner.run)

    async def end(self, name: str, make: Make | None = Steps) -> JobRecord:
        """The job, after as many attempts as it takes."""
        async with asyncio.timeout(120):
            while not (record := await self.call(lambda: self.server.get(name))).done:
                await self.attempt(make)
        return record

    async def ends_as(self, state: int, name: str, make: Make | None = None) -> JobRecord:
        """The job, which ends in that state. Raises the error of one that fails otherwise."""
        record = await self.end(name, make)
        if record.metadata.state != state and record.error is not None:
            raise from_status(record.error)
        assert record.metadata.state == state
        return record

    async def succeeds(self, name: str) -> None:
        """The job succeeds, with the right bytes."""
        await self.ends_as(SUCCEEDED, name, Steps)
        assert await self.bytes_of(name) == state_after(STEPS)

    async def bytes_of(self, name: str) -> bytes:
        """The result, read anew where that breaks."""

        async def read() -> bytes:
            _, chunks = await self.server.read(name, "image")
            return b"".join([chunk async for chunk in chunks])

        return bytes(await self.call(read))

    async def delete(self, name: str) -> None:
        """An ended job, which is checked before."""
        self.check(name)
        await self.call(lambda: self.server.delete(name), gone=True)
        self.names.remove(name)

    def check(self, name: str) -> None:
        """An ended job: it has one end, and in the artifact store no more than its record names."""
        id_ = name.removeprefix("operations/")
        states = [int(event[b"state"]) for _, event in self.redis.xrange(f"convlens:events:{id_}")]
        assert sum(state in (SUCCEEDED, FAILED, CANCELLED) for state in states) == 1, states
        self.tidy()
        record = JobRecord.from_fields(id_, self.redis.hgetall(OPERATION + id_))
        expected = {f"{kind}/{digest}" for kind, digest in named(record)}
        place = self.folder / "operations" / id_
        found = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
        assert found <= expected, f"{found - expected} is left, which no record names"
        self.missing |= expected - found

    def tidy(self) -> None:
        """What maintenance does in time."""

        def tidy() -> None:
            for id_, _ in self.redis.zscan_iter(UNTIDY):
                self.redis.zadd(UNTIDY, {id_: 0})
            self.behind.tidy_due(self.artifacts)

        insist(tidy)

    def check_nothing_is_left(self) -> None:
        """Of jobs that are all deleted."""
        self.tidy()
        keys = [key.decode() for key in self.redis.scan_iter()]
        assert [key for key in keys if not key.startswith(OF_NO_JOB)] == []
        assert [path for path in self.folder.rglob("*") if path.is_file()] == []
        counters = self.redis.hgetall("convlens:counters:convlens")
        counted = Counter({name.decode(): int(value) for name, value in counters.items()})
        assert counted["submitted"] == counted["succeeded"] + counted["failed"] + counted["cancelled"]


async def succeeds(plane: Plane) -> None:
    """Asked for, given back once, done, looked at in every way, removed."""
    await plane.call(plane.server.ping)
    name = await plane.submit("succeeds")
    await plane.attempt(partial(Steps, until=2), draining=True)
    await plane.succeeds(name)
    record = await plane.call(lambda: plane.server.wait(name, 1))

    async def last() -> job_pb2.JobMetadata:
        events = [metadata async for _, metadata, _ in plane.server.watch(name)]
        return events[-1]

    assert (await plane.call(last)).state == SUCCEEDED
    listed, _ = await plane.call(plane.server.list)
    assert [each.name for each in listed] == [name]
    assert (await plane.call(lambda: plane.server.request(record))).deepdream.steps == 3
    await plane.call(plane.server.stats)
    await plane.delete(name)


async def cancelled(plane: Plane) -> None:
    """Cancelled while it waits for its second attempt, and gone on from by another job."""
    name = await plane.submit("cancelled")
    await plane.attempt(partial(Steps, until=2), draining=True)
    await plane.call(lambda: plane.server.cancel(name))
    record = await plane.ends_as(CANCELLED, name)
    if record.checkpoints:  # None where nothing could be stored.
        other = await plane.submit("resumed", resumed=record)
        await plane.succeeds(other)
        await plane.delete(other)
    await plane.delete(name)


async def stopped(plane: Plane) -> None:
    """Cancelled while it runs; its last checkpoint comes after that."""
    name, loop = await plane.submit("stopped"), asyncio.get_running_loop()

    class Cancelling(Steps):
        def receive(self, seconds: float) -> messages.Event | None:
            if isinstance(event := super().receive(seconds), messages.Waiting) and self._stop is None:
                cancelling = plane.call(lambda: plane.server.cancel(name))
                asyncio.run_coroutine_threadsafe(cancelling, loop).result(10)
            return event

    await plane.ends_as(CANCELLED, name, partial(Cancelling, until=1))
    await plane.delete(name)


async def lost(plane: Plane) -> None:
    """Taken away from its first worker, which stores a checkpoint after that."""
    name = await plane.submit("lost")

    class Late(Steps):
        def receive(self, seconds: float) -> messages.Event | None:
            if not isinstance(event := super().receive(seconds), messages.Waiting) or self._stop is not None:
                return event
            while not plane.redis.llen("rq:queue:convlens"):
                plane.behind.sweep()
                time.sleep(LEASE / 10)
            late = insist(lambda: self._artifacts.put(operation_id(name), "checkpoints", b"late"))
            return messages.Checkpointed(late, 0.0)

    await plane.attempt(partial(Late, until=1))
    await plane.succeeds(name)
    await plane.delete(name)


async def dies(plane: Plane) -> None:
    """Its device process dies, then its workers; given up by the sweep."""
    name = await plane.submit("dies")
    await plane.attempt(partial(Steps, until=1, dies=True))
    assert (await plane.end(name, None)).metadata.state == FAILED
    await plane.delete(name)


def _fail(_: str) -> None:
    raise Unavailable("the artifact store is away")


async def maintained(plane: Plane) -> None:
    """What maintenance does beside."""
    insist(plane.worker.sweep)
    insist(plane.worker.stats)
    insist(plane.worker.may_tidy)
    assert insist(lambda: plane.worker.unknown(["0" * 32])) == ["0" * 32]
    await plane.call(plane.server.of("tenant").list)
    plane.redis.zadd(UNTIDY, {"0" * 32: 0})
    with suppress(*AWAY):  # A store that fails is asked again later.
        plane.worker.tidy_due(SimpleNamespace(drop_all=_fail))
    insist(lambda: plane.worker.tidy_due(plane.artifacts))
    insist(plane.worker.withdraw)


LIVES: Final[dict[str, Callable[[Plane], Awaitable[None]]]] = {
    life.__name__: life for life in (succeeds, cancelled, stopped, lost, dies, maintained)
}
