"""What every long call goes through: the job store, if there is one, room, and the end of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from convlens.errors import FailedPrecondition, ResourceExhausted, Unavailable
from convlens_server.edge.room import Room
from convlens_server.identity import principal
from convlens_server.identity.principal import sharer
from convlens_workers.jobs import JobStore
from convlens_workers.jobs.stats import QueueCollector

T = TypeVar("T")

RETRY: Final = 5.0
"""Seconds after which to come back where too many wait."""


class JobGateway:
    """The job store, and the calls that follow jobs for as long as they last.

    Args:
        store: where jobs are; None where the long lane is switched off.
        most: calls that may be under way at the same time.
    """

    def __init__(self, store: JobStore | None, most: int) -> None:
        self._store = store
        self._room = Room(most)
        self._stopping = asyncio.Event()

    @property
    def store(self) -> JobStore:
        """The job store as the caller may see it. Raises FailedPrecondition where there is none."""
        if self._store is None:
            text = "this server has no long lane: CONVLENS_REDIS is empty"
            raise FailedPrecondition(text, reason="NO_LONG_LANE")
        return self._store.of(principal().tenant)

    async def check(self) -> None:
        """Raises FailedPrecondition where Redis cannot do what the settings ask for."""
        if self._store is not None:
            await self._store.check()

    async def ping(self) -> None:
        """Raises Unavailable when Redis does not answer."""
        if self._store is not None:
            await self._store.ping()

    @contextmanager
    def room(self) -> Iterator[None]:
        """For a call that lasts as long as a job or a slow client. Raises ResourceExhausted without."""
        caller = sharer()
        if not self._room.take(caller, 1):
            text = f"{self._room.held} calls wait for jobs, send artifacts or receive collections"
            raise ResourceExhausted(text, reason="LONG_CALLS", retry_after=RETRY)
        try:
            yield
        finally:
            self._room.give(caller, 1)

    async def unless_stopping(self, work: Awaitable[T]) -> T:
        """The result of `work`, which may wait for a job for hours.

        Raises:
            Unavailable: the server shuts down meanwhile; the caller goes on with another one.
        """
        following = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                return following.result()
            raise Unavailable("the server shuts down; the job goes on", retry_after=1.0)
        finally:
            stopping.cancel()
            await _cancelled(following)

    async def until_stopping(self, events: AsyncIterator[T]) -> AsyncIterator[T]:
        """The same events. Raises Unavailable when the server shuts down before their end."""
        while True:
            try:
                event = await self.unless_stopping(anext(events))
            except StopAsyncIteration:
                return
            yield event

    @property
    def stopping(self) -> bool:
        """Whether the server shuts down."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """End all that waits for jobs."""
        self._stopping.set()

    def collector(self) -> QueueCollector | None:
        """How the queues stand, for Prometheus, from any thread while this event loop turns; None without."""
        if self._store is None:
            return None
        store, loop = self._store, asyncio.get_running_loop()
        return QueueCollector(lambda: asyncio.run_coroutine_threadsafe(store.stats(), loop).result(10))

    async def close(self) -> None:
        """Close the connections."""
        if self._store is not None:
            await self._store.close()


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel until it is done: Python 3.11's `wait_for`, which redis uses, may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    if not task.cancelled():
        task.exception()  # Looked at, so that asyncio does not log it as lost.
