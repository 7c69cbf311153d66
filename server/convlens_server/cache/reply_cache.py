"""Replies that are kept in Redis, as bytes by the SHA-256 of what they follow from.

Keys, each of which Redis drops after the time to live:

    convlens:cache:<sha256>   string  the reply messages, each behind its length
    convlens:cache            zset    "<sha256>:<bytes>" by the time when it goes (ms); the oldest go first
    convlens:cache-bytes      string  what they take together

Redis evicts nothing by itself, since it holds the queue: the script `_PUT` keeps the total within its bound.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Semaphore
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from convlens_server.request.request_context import phase
from convlens_server.settings import ServerSettings

PREFIX: Final = "convlens:cache"
TIMEOUT: Final = 0.1
"""Seconds that a call waits for Redis."""
REST: Final = 5.0
"""Seconds for which a Redis that has failed is left alone."""

_PUT: Final = """
local capacity, ttl, size, body = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local index, bytes, entry = KEYS[1], KEYS[2], KEYS[3]
local function drop(member)
    local hash, size = member:match('^(.*):(%d+)$')
    redis.call('DEL', index .. ':' .. hash)
    redis.call('ZREM', index, member)
    redis.call('DECRBY', bytes, size)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now)) do drop(member) end
local member = entry:sub(#index + 2) .. ':' .. size
if redis.call('ZSCORE', index, member) then return end
while tonumber(redis.call('GET', bytes) or 0) + size > capacity do
    local oldest = redis.call('ZRANGE', index, 0, 0)[1]
    if not oldest then return end
    drop(oldest)
end
redis.call('SET', entry, body, 'PX', ttl)
redis.call('ZADD', index, now + ttl, member)
redis.call('INCRBY', bytes, size)
for _, key in ipairs({index, bytes}) do
    if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
end
"""
UNWRITTEN: Final = 32
"""The number of entries that may wait to be written."""
OVERHEAD: Final = 512
"""Bytes that Redis takes for an entry beside its body, roughly; so that many small ones are bounded too."""


class Away(Exception):
    """Redis has failed, and is left alone for a while."""


class ReplyCache:
    """Bodies by SHA-256 in Redis; one that is away or slow costs a call `TIMEOUT`, once in `REST` seconds.

    Args:
        settings: say which Redis it is, for how many seconds an entry is kept, how large one may be, and how
            large all may be together, whichever server they come from.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.entry_bytes = int(settings.cache_entry_kilobytes * (1 << 10))
        self._redis = redis.Redis.from_url(
            settings.cache_redis or settings.redis,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        self._put = self._redis.register_script(_PUT)
        self._capacity = int(settings.cache_megabytes * (1 << 20))
        self._milliseconds = int(settings.cache_seconds * 1000)
        self._resting_until = 0.0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="cache")
        self._room = Semaphore(UNWRITTEN)

    def get(self, key: str) -> bytes | None:
        """The body that is kept under the key, if there is one. Raises Away."""
        body: bytes | None = self._ask(lambda: self._redis.get(f"{PREFIX}:{key}"))
        return body

    def put(self, key: str, body: bytes, still: Callable[[], bool] = lambda: True) -> None:
        """Keep a body soon, if it is `still` right then; nobody waits. Too many at once are dropped."""
        if not self._room.acquire(blocking=False):
            return

        def write() -> None:
            try:
                if still():
                    keys = (PREFIX, f"{PREFIX}-bytes", f"{PREFIX}:{key}")
                    values = (self._capacity, self._milliseconds, len(body) + OVERHEAD, body)
                    with suppress(Away):
                        self._ask(lambda: self._put(keys, values))
            finally:
                self._room.release()

        self._writer.submit(write)

    def flush(self) -> None:
        """Wait until all entries are written."""
        self._writer.submit(lambda: None).result()

    def close(self) -> None:
        """Write what there is, and close the connections."""
        self._writer.shutdown()
        self._redis.close()

    def _ask(self, command: Callable[[], Any]) -> Any:
        now = time.monotonic()
        if now < self._resting_until:
            raise Away
        if self._resting_until:  # One caller finds out whether it is back; the others need not wait.
            self._resting_until = now + REST
        try:
            with phase("cache"):
                answer = command()
        except redis.RedisError as error:
            self._resting_until = time.monotonic() + REST
            raise Away from error
        self._resting_until = 0.0
        return answer


def pack(parts: Iterable[bytes]) -> bytes:
    """One body of several messages, each behind its length as 4 bytes."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unpack(body: bytes) -> Iterator[bytes]:
    """The messages of a body. Raises struct.error when it is cut."""
    position = 0
    while position < len(body):
        (length,) = struct.unpack_from("<I", body, position)
        position += 4 + length
        if position > len(body):
            raise struct.error("the body ends within a message")
        yield body[position - length : position]
