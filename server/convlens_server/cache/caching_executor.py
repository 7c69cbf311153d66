"""An executor that takes replies from a cache, so that nothing is computed twice.

A quick call is pure: its replies follow from the model's files, the request with its defaults, and nothing
else, as all that is random takes a seed. So they are kept under the SHA-256 of just that, and of the tenant.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final, ParamSpec, TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from convlens.errors import ConvLensError
from convlens_models.manifest import Manifest
from convlens_models.repository import ModelRepository
from convlens_server.cache.reply_cache import Away, ReplyCache, pack, unpack
from convlens_server.identity.principal import owner
from convlens_server.request.raw_request import RawRequest
from convlens_server.request.request_context import current
from convlens_server.request.validation import validate
from convlens_server.serving.executor import Executor
from convlens_server.serving.parts import Parts
from convlens_workers.jobs.pictures import find_images

P = ParamSpec("P")
R = TypeVar("R")

SOFTWARE: Final = version("convlens")
"""Part of every key: another version may compute otherwise."""


class CachingExecutor:
    """The worker threads, with replies to cacheable requests out of the cache where they are there.

    Args:
        executor: computes what is not in the cache.
        replies: the cache.
        repository: tells which files a model has now.
        cacheable: the type of reply to each type of request that is looked up.
    """

    def __init__(
        self,
        executor: Executor,
        replies: ReplyCache,
        repository: ModelRepository,
        cacheable: Mapping[Descriptor, type[Message]],
    ) -> None:
        self._executor, self._replies, self._repository = executor, replies, repository
        self._cacheable = cacheable

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `function`, as `Executor.run` gives it, or a copy of an earlier one."""
        if not self._is_cacheable(args):
            return await self._executor.run(function, *args, **kwargs)
        return await self._executor.run(self._reply, function, *args)

    def stream(
        self, function: Callable[P, Iterator[R]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncGenerator[R]:
        """The items of `function`, as `Executor.stream` gives them, or copies of earlier ones."""
        if not self._is_cacheable(args):
            return self._executor.stream(function, *args, **kwargs)
        return self._executor.stream(self._cached, function, *args)

    def _is_cacheable(self, args: tuple[Any, ...]) -> bool:
        return len(args) == 1 and getattr(args[0], "DESCRIPTOR", None) in self._cacheable

    def _reply(self, function: Callable[[Any], Any], request: Any) -> Any:
        (reply,) = self._cached(lambda request: iter([function(request)]), request)
        return reply

    def _cached(self, function: Callable[[Any], Iterator[Any]], request: Any) -> Iterator[Any]:
        key, digest = self._key(request)
        if key and (replies := self._look_up(key, self._cacheable[request.DESCRIPTOR])):
            yield from replies
            return
        recorder = Recorder(self._replies.entry_bytes)
        for reply in function(request):
            if isinstance(reply, Message):
                recorder.add(reply.SerializeToString())
                yield reply
            else:
                yield recorder.part(reply)
        if key and recorder.room >= 0:
            # Another version may have come meanwhile, and computed this.
            self._replies.put(key, pack(recorder.messages), lambda: self._digest(request) == digest)

    def _look_up(self, key: str, reply: type[Message]) -> list[Message]:
        try:
            replies = [reply.FromString(part) for part in unpack(self._replies.get(key) or b"")]
            result = "hit" if replies else "miss"
        except (Away, DecodeError, struct.error):  # The latter two: somebody else has written there.
            replies, result = [], "error"
        if context := current.get():
            context.cache = result
        return replies

    def _digest(self, request: Any) -> str:
        try:
            return self._manifest(request).digest
        except ConvLensError:
            return ""

    def _manifest(self, request: Any) -> Manifest:
        ref = validate(request.model)
        return self._repository.get(ref.name, ref.version if ref.HasField("version") else None).manifest

    def _key(self, request: Any) -> tuple[str, str]:
        """The hash of what replies follow from, and the model's digest; both empty if it will be refused."""
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
    for _, image, _ in find_images(request):
        image.ClearField("name")
    return [request.SerializeToString(deterministic=True)]


class Recorder:
    """Keeps messages as they are sent, if they have room together.

    Attributes:
        room: the bytes that are left for messages and their lengths; negative when they had no room.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.messages: list[bytes] = []

    def add(self, message: bytes) -> None:
        """Keep a message, if there is room for it."""
        self.room -= len(message) + 4
        if self.room >= 0:
            self.messages.append(message)

    def part(self, messages: Iterator[bytes]) -> Iterator[bytes]:
        """The messages of a part of a reply; cut now, where there may be room for all of them.

        Whoever reads them may do so long after the work that they follow from has ended.
        """
        size = getattr(messages, "nbytes", 0)
        if size > self.room:
            self.room = -1
            return messages
        cut = list(messages)
        for message in cut:
            self.add(message)
        return Parts(iter(cut), size)
