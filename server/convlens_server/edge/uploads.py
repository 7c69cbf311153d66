"""Requests as they arrive: a message is read once there is room for the largest that it may turn out to be.

gRPC tells no length before a message is whole, and takes of an unread one a few kilobytes. So what all
messages hold that have not arrived is bounded by how many are read at the same time.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from convlens.errors import InvalidArgument, ResourceExhausted, Unavailable
from convlens_server.request.request_context import ServicerContext, received

COPIES: Final = 2
"""A message that has arrived is there as bytes, and as what was read from them."""
RETRY: Final = 1.0
"""Seconds after which to come back where there was no room."""
CANCELLATION: Final = 0.1
"""Seconds in which gRPC tells that a call without a message has been cancelled, or was refused by itself."""
END: Final[Any] = object()


class Uploads:
    """The bytes that requests may hold.

    Args:
        total: bytes of all together.
        largest: bytes of the largest message.
        seconds: in which a message must arrive, and for which one may wait until it is read.
    """

    def __init__(self, total: int, largest: int, seconds: float) -> None:
        self.largest, self.seconds = largest, seconds
        self._total = max(total, largest)
        self._waiting: deque[tuple[str | None, int, asyncio.Future[None]]] = deque()
        self._by_caller: Counter[str | None] = Counter()
        self.held = 0

    async def take(self, caller: str | None, size: int) -> None:
        """Hold so many bytes for a caller (None for one that may take all), after those who came before.

        Raises:
            ResourceExhausted: no room has come in time.
        """
        if self._fits(caller, size):  # Those who wait are more of a caller with too many, or have no room.
            self._add(caller, size)
            return
        turn = asyncio.get_running_loop().create_future()
        entry = (caller, size, turn)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(self.seconds):
                await turn
        except TimeoutError:
            text = f"requests hold {self.held >> 20} of {self._total >> 20} MiB"
            raise ResourceExhausted(text, reason="UPLOAD_BYTES", retry_after=RETRY) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # The turn came in the moment that the caller left.
                self.give(caller, size)
            raise
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def give(self, caller: str | None, size: int) -> None:
        """Hold so many bytes less, and let those read who now have room."""
        self._add(caller, -size)
        for entry in list(self._waiting):
            whose, wanted, turn = entry
            if not turn.done() and self._fits(whose, wanted):
                self._waiting.remove(entry)
                self._add(whose, wanted)
                turn.set_result(None)

    def _fits(self, caller: str | None, size: int) -> bool:
        mine = self._by_caller[caller]
        alone = caller is None or not mine or mine + size <= self._total // 2
        return alone and self.held + size <= self._total

    def _add(self, caller: str | None, size: int) -> None:
        self.held += size
        self._by_caller[caller] += size
        if not self._by_caller[caller]:
            del self._by_caller[caller]


class Upload:
    """The messages of one call.

    Args:
        uploads: where they find room.
        caller: whose they are; None for one that may take all the room.
        deserialize: makes a request of a message; raises DecodeError.
    """

    def __init__(
        self,
        uploads: Uploads,
        caller: str | None,
        context: ServicerContext,
        deserialize: Callable[[bytes], Any],
    ) -> None:
        self._uploads, self._caller, self._context = uploads, caller, context
        self._deserialize = deserialize
        self._held = 0

    async def next(self) -> Any:
        """The next message, or END; the one before gives up its room.

        Raises:
            InvalidArgument: bytes that are no such message.
            ResourceExhausted: as `Uploads.take`.
            Unavailable: the message has not arrived in time.
        """
        self.close()
        uploads = self._uploads
        await uploads.take(self._caller, uploads.largest)
        self._held = uploads.largest
        try:
            async with asyncio.timeout(uploads.seconds):
                data = await self._context.read()
        except TimeoutError:
            text = f"the message has not arrived within {uploads.seconds:g} s"
            raise Unavailable(text, reason="UPLOAD_STALLED", retry_after=RETRY) from None
        if data is grpc.aio.EOF:
            self.close()
            return END
        self._keep(COPIES * len(data))
        received.set(len(data))
        try:
            return self._deserialize(data)
        except DecodeError as error:
            name = getattr(getattr(self._deserialize, "__self__", None), "__name__", "message")
            raise InvalidArgument(f"{len(data)} bytes are not a {name} of protobuf: {error}") from None

    async def one(self) -> Any:
        """The message of a call that has one. Raises as `next`, and InvalidArgument where there is none."""
        message = await self.next()
        if message is END:
            await asyncio.sleep(CANCELLATION)
            raise InvalidArgument("the call has no message")
        return message

    async def __aiter__(self) -> Any:
        while (message := await self.next()) is not END:
            yield message

    def close(self) -> None:
        """Give up the room."""
        self._keep(0)

    def _keep(self, size: int) -> None:
        if self._held != size:
            self._uploads.give(self._caller, self._held - size)
            self._held = size
