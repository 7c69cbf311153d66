"""Submissions that are told of once Redis has them on its disk, whatever its `appendfsync` says."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from redis import exceptions

from convlens.errors import FailedPrecondition, Unavailable
from convlens_workers.jobs.connection import connect
from convlens_workers.jobs.redis_errors import redis_errors

SYNCED: Final = "convlens:synced"
"""A key that is written before each wait: Redis waits for what the same connection has written."""
SYNC_SECONDS: Final = 10.0
"""Seconds that a submission waits for Redis's disk."""
RETRY: Final = 2.0
LACKING: Final = {
    "unknown command": "is older than 7.2: must be Redis 7.2 or newer, or Valkey, for its WAITAOF",
    "appendonly is disabled": "keeps no append-only file: must have `appendonly yes`",
    "no permissions": "forbids WAITAOF to the user in its URL: must allow it `+waitaof`",
}
"""What Redis says where it cannot be waited for, and what the operator is told."""


class Synced:
    """Waits until Redis has synced what was written before; many waits at once share one.

    Raises:
        FailedPrecondition: this Redis cannot be waited for.
    """

    def __init__(self, url: str) -> None:
        self._redis: Any = connect(url, socket_timeout=SYNC_SECONDS + 2.0)
        self._turn = asyncio.Lock()
        self._begun = self._ended = 0

    async def wait(self) -> None:
        """Return once all that Redis has done by now is on its disk. Raises Unavailable after a while."""
        wanted = self._begun + 1  # One that is under way may have begun before the write that it is for.
        async with self._turn:
            if self._ended >= wanted:
                return
            self._begun += 1
            turn = self._begun
            await self._sync()
            self._ended = turn

    async def _sync(self) -> None:
        """Both commands go by one connection, so that what is waited for comes after all earlier writes."""
        with redis_errors():
            try:
                pipeline = self._redis.pipeline(transaction=False).set(SYNCED, 1)
                pipeline.execute_command("WAITAOF", 1, 0, int(SYNC_SECONDS * 1000))
                _, (local, _) = await pipeline.execute()
            except exceptions.ResponseError as error:
                self._refuse(error)
                raise
        if not local:
            late = f"Redis has not synced the job to its disk in {SYNC_SECONDS:g} s: it may run or be lost"
            raise Unavailable(f"{late}; ask again with the same request_id", retry_after=RETRY)

    def _refuse(self, error: Exception) -> None:
        for words, told in LACKING.items():
            if words in str(error):
                setting = "CONVLENS_SUBMIT_DURABILITY = synced"
                raise FailedPrecondition(f"{setting}: the Redis in CONVLENS_REDIS {told}") from error

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()
