"""Replies that are remembered in Redis: what was computed once is not computed again.

A quick call is pure: its replies follow from the model's files, the request with its defaults, and nothing
else, as all that is random takes a seed. So they are kept under the SHA-256 of just that, and of the tenant.

Keys, each of which Redis drops after the time to live:

    convlens:cache:<sha256>   string  the reply messages, each behind its length
    convlens:cache            zset    "<sha256>:<bytes>" by the time when it goes (ms); the oldest go first
    convlens:cache-bytes      string  what they take together

Redis evicts nothing by itself, since it holds the queue: the script `_PUT` keeps the total within its bound.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from threading import Semaphore
from typing import Any, Final, ParamSpec, TypeVar

import redis
from google.protobuf.message import DecodeError, Message
from redis.backoff import NoBackoff
from redis.retry import Retry

from convlens.errors import ConvLensError
from convlens.inference import open_inference_pb2
from convlens.v1 import attack_pb2, attribution_pb2, inspection_pb2, style_pb2, unit_pb2
from convlens_models.manifest import Manifest
from convlens_models.repository import ModelRepository
from convlens_server.identity.principal import owner
from convlens_server.serving.executor import Executor
from convlens_server.serving.raw_request import RawRequest
from convlens_server.serving.request_context import current, phase
from convlens_server.serving.validation import validate

P = ParamSpec("P")
R = TypeVar("R")

CACHEABLE: Final[Mapping[type[Any], type[Message]]] = {
    inspection_pb2.ClassifyRequest: inspection_pb2.ClassifyResponse,
    inspection_pb2.GetActivationsRequest: inspection_pb2.GetActivationsResponse,
    attribution_pb2.AttributeRequest: attribution_pb2.AttributeResponse,
    attribution_pb2.CheckRandomisationRequest: attribution_pb2.CheckRandomisationResponse,
    attack_pb2.AttackRequest: attack_pb2.AttackResponse,
    attack_pb2.MeasureRobustnessRequest: attack_pb2.MeasureRobustnessResponse,
    style_pb2.StyliseRequest: style_pb2.StyliseResponse,
    unit_pb2.GetUnitPatternsRequest: unit_pb2.GetUnitPatternsResponse,
    unit_pb2.GetDiscrepancyMapsRequest: unit_pb2.GetDiscrepancyMapsResponse,
    RawRequest: open_inference_pb2.ModelInferResponse,
}
"""Requests whose replies are remembered, and what these are."""

PREFIX: Final = "convlens:cache"
SOFTWARE: Final = version("convlens")
"""Another version may compute otherwise."""
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
"""Entries that may wait to be written."""
OVERHEAD: Final = 512
"""What Redis takes for an entry beside its bytes, roughly; so that many small ones are bounded too."""


class Away(Exception):
    """Redis has failed, and is left alone for a while."""


class ReplyCache:
    """Bytes by SHA-256 in Redis; one that is away or slow costs a call `TIMEOUT`, once in `REST` seconds.

    Args:
        url: of Redis.
        seconds: that an entry is kept.
        entry_bytes: of the largest entry.
        total_bytes: of all, whichever server they come from.
    """

    def __init__(self, url: str, seconds: float, entry_bytes: int, total_bytes: int) -> None:
        self.entry_bytes = entry_bytes
        self._redis = redis.Redis.from_url(
            url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=Retry(NoBackoff(), 0)
        )
        self._put = self._redis.register_script(_PUT)
        self._capacity, self._ttl = total_bytes, int(seconds * 1000)
        self._resting_until = 0.0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="cache")
        self._room = Semaphore(UNWRITTEN)

    def get(self, key: str) -> bytes | None:
        """What is kept, if anything is. Raises Away."""
        body: bytes | None = self._ask(lambda: self._redis.get(f"{PREFIX}:{key}"))
        return body

    def put(self, key: str, body: bytes, still: Callable[[], bool] = lambda: True) -> None:
        """Keep it, soon, if it is `still` right then; nobody waits for that. Too many at once are dropped."""
        if not self._room.acquire(blocking=False):
            return

        def write() -> None:
            try:
                if still():
                    keys = (PREFIX, f"{PREFIX}-bytes", f"{PREFIX}:{key}")
                    values = (self._capacity, self._ttl, len(body) + OVERHEAD, body)
                    with suppress(Away):
                        self._ask(lambda: self._put(keys, values))
            finally:
                self._room.release()

        self._writer.submit(write)

    def flush(self) -> None:
        """Wait until all is written."""
        self._writer.submit(lambda: None).result()

    def close(self) -> None:
        """Write what there is, and close the connections."""
        self._writer.shutdown()
        self._redis.close()

    def _ask(self, question: Callable[[], Any]) -> Any:
        now = time.monotonic()
        if now < self._resting_until:
            raise Away
        if self._resting_until:  # One caller finds out whether it is back; the others need not wait.
            self._resting_until = now + REST
        try:
            with phase("cache"):
                answer = question()
        except redis.RedisError as error:
            self._resting_until = time.monotonic() + REST
            raise Away from error
        self._resting_until = 0.0
        return answer


class CachingExecutor:
    """The lanes, with replies to pure requests out of the cache where they are there."""

    def __init__(self, executor: Executor, bodies: ReplyCache, repository: ModelRepository) -> None:
        self._executor, self._bodies, self._repository = executor, bodies, repository

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As `Executor.run`."""
        if not _pure(args):
            return await self._executor.run(function, *args, **kwargs)
        return await self._executor.run(self._reply, function, *args)

    def stream(
        self, function: Callable[P, Iterator[R]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncGenerator[R]:
        """As `Executor.stream`."""
        if not _pure(args):
            return self._executor.stream(function, *args, **kwargs)
        return self._executor.stream(self._replies, function, *args)

    def _reply(self, function: Callable[[Any], Any], request: Any) -> Any:
        (reply,) = self._replies(lambda asked: iter([function(asked)]), request)
        return reply

    def _replies(self, function: Callable[[Any], Iterator[Any]], request: Any) -> Iterator[Any]:
        key, digest = self._key(request)
        if key and (found := self._found(key, CACHEABLE[type(request)])):
            yield from found
            return
        sent = Recorder(self._bodies.entry_bytes)
        for reply in function(request):
            if isinstance(reply, Message):
                sent.add(reply.SerializeToString())
                yield reply
            else:
                yield sent.passing(reply)
        if key and sent.room >= 0:
            # Another version may have come meanwhile, and computed this.
            self._bodies.put(key, pack(sent.messages), lambda: self._digest(request) == digest)

    def _found(self, key: str, reply: type[Message]) -> list[Message]:
        try:
            found = [reply.FromString(part) for part in unpack(self._bodies.get(key) or b"")]
            _note("hit" if found else "miss")
        except (Away, DecodeError, struct.error):  # The latter two: somebody else has written there.
            found = []
            _note("error")
        return found

    def _digest(self, request: Any) -> str:
        try:
            return self._manifest(request).digest
        except ConvLensError:
            return ""

    def _manifest(self, request: Any) -> Manifest:
        ref = validate(request.model)
        return self._repository.get(ref.name, ref.version if ref.HasField("version") else None).manifest

    def _key(self, request: Any) -> tuple[str, str]:
        """What the replies follow from, and the model's digest; empty for what is going to be refused."""
        try:
            manifest = self._manifest(request)
            parts = _stated(request, manifest)
        except ConvLensError:
            return "", ""
        stated = (SOFTWARE, owner(), type(request).__name__, str(manifest.version), manifest.digest)
        digest = hashlib.sha256("\n".join(stated).encode() + b"\n")
        for part in parts:
            digest.update(part)
        return digest.hexdigest(), manifest.digest


def _stated(request: Any, manifest: Manifest) -> Iterable[bytes | memoryview]:
    """A request with its defaults, without its model. Raises InvalidArgument."""
    if isinstance(request, RawRequest):
        return request.stated()
    request = validate(request, manifest)
    request.ClearField("model")
    return [request.SerializeToString(deterministic=True)]


def _note(result: str) -> None:
    if call := current.get():
        call.cache = result


class Recorder:
    """Messages as they are sent, of which those are kept that there is room for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.messages: list[bytes] = []

    def add(self, message: bytes) -> None:
        """Keep it, if there is room."""
        self.room -= len(message) + 4
        if self.room >= 0:
            self.messages.append(message)

    def passing(self, messages: Iterator[bytes]) -> Iterator[bytes]:
        """The same, each kept as it passes."""
        for message in messages:
            self.add(message)
            yield message


def _pure(args: tuple[Any, ...]) -> bool:
    return len(args) == 1 and type(args[0]) in CACHEABLE


def pack(parts: Iterable[bytes]) -> bytes:
    """Messages as one body."""
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
