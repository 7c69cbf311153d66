"""Wakes the watchers of jobs that have changed, however many, through one connection to Redis."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from convlens_workers.jobs.scripts import CHANGED


class ChangeNotifier:
    """Sets the events of those who listen to a job whenever the job changes; one subscription serves all.

    An event says only "read again". One may get lost with the connection, so listeners also read at times.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._listeners: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def listen(self, operation_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever the job changes."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        event = asyncio.Event()
        self._listeners[operation_id].add(event)
        try:
            yield event
        finally:
            self._listeners[operation_id].discard(event)
            if not self._listeners[operation_id]:
                del self._listeners[operation_id]

    async def close(self) -> None:
        """End the subscription."""
        while self._task is not None and not self._task.done():
            self._task.cancel()  # More than once: a client that just times out swallows it.
            await asyncio.wait({self._task}, timeout=0.1)

    async def _run(self) -> None:
        while True:
            with suppress(RedisError, OSError):
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(CHANGED)
                    self._notify_all()
                    while True:
                        self._notify(await channel.get_message(ignore_subscribe_messages=True, timeout=5.0))
            await asyncio.sleep(0.5)

    def _notify(self, message: dict[str, Any] | None) -> None:
        if message is not None:
            for event in self._listeners.get(message["data"].decode(), ()):
                event.set()

    def _notify_all(self) -> None:
        for events in self._listeners.values():
            for event in events:
                event.set()
