"""Replies that their readers have not taken: what they hold, and the end of readers who read nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import grpc

from convlens.errors import ConvLensError, ResourceExhausted, Unavailable
from convlens_server.edge.connections import hang_up
from convlens_server.edge.room import Room
from convlens_server.request.request_context import ServicerContext

MIB: Final = 1 << 20
RETRY: Final = 1.0
"""Seconds after which to come back where there was no room."""
LARGE: Final = 1 << 16
"""Bytes of a single reply from which on it is watched until it has been taken."""
COPIES: Final = 2
"""A message that is being sent is there as bytes, and in gRPC."""
KEPT: Final = 8
"""The part of the room, one of so many, that one caller's first reply leaves to others."""
RESUMED: Final = {
    "WatchJob": "ask again with after_event_id = the last event_id that came",
    "ReadArtifact": "ask again with read_offset = the number of bytes that came",
    "AddModel": "begin again with the pieces that were not acknowledged",
    "AddImages": "begin again with the images that were not acknowledged",
}
"""How to go on where a method's replies broke, for those that can."""

log = logging.getLogger("convlens.server")


class Replies:
    """The bytes that replies may hold.

    Args:
        total: bytes of all together.
        seconds: in which a reader must take a message, beside one for each MiB.
    """

    def __init__(self, total: int, seconds: float) -> None:
        self._seconds = seconds
        self.room = Room(total, total // KEPT)

    def patience(self, size: int) -> float:
        """Seconds in which a reader must take so many bytes."""
        return self._seconds + size / MIB

    def add(self, caller: str | None, size: int) -> None:
        """Hold so many bytes more for a caller (None for one that may take all). Raises ResourceExhausted."""
        room = self.room
        if size > room.total:
            most = f"at most {room.total >> 20} MiB: ask for less at a time"
            raise ResourceExhausted(f"the reply would hold {size >> 20} MiB: {most}", reason="REPLY_BYTES")
        if not room.take(caller, size):
            mine, held = (f"{bytes_ / MIB:.1f}" for bytes_ in (room.of(caller), room.held))
            text = f"replies that nobody has read hold {held} MiB, {mine} of them for this caller"
            text = f"{text}, and leave no room for {size / MIB:.1f} MiB"
            raise ResourceExhausted(text, reason="REPLY_BYTES", retry_after=RETRY)

    def give(self, caller: str | None, size: int) -> None:
        """Hold so many bytes less."""
        self.room.give(caller, size)


class Reply:
    """What the reply of one call holds.

    Args:
        replies: where it has room.
        caller: whose it is; None for one that may take all the room.
        method: of the call.
        context: gRPC's own of the call.
        beside: the replies of all calls of the same connection, which others may share: a proxy's clients.
    """

    def __init__(
        self, replies: Replies, caller: str | None, method: str, context: ServicerContext, beside: set[Reply]
    ) -> None:
        self._replies, self._caller, self._method, self._context = replies, caller, method, context
        self._beside = beside
        beside.add(self)
        self._held = 0
        self._overdue = False
        self._timer: asyncio.TimerHandle | None = None

    def at_least(self, size: int) -> None:
        """Hold at least so many bytes until the call ends. Raises ResourceExhausted."""
        if size > self._held:
            self._replies.add(self._caller, size - self._held)
            self._held = size

    def at_most(self, size: int) -> None:
        """Hold no more than so many bytes."""
        if size < self._held:
            self._replies.give(self._caller, self._held - size)
            self._held = size

    async def write(self, message: bytes) -> None:
        """Send one of several messages.

        Raises:
            Unavailable: the reader has not taken it in time, and can go on behind what came.
            ResourceExhausted: the same, where it can not.
        """
        size = len(message)
        patience = self._replies.patience(size)
        try:
            async with asyncio.timeout(patience):
                await self._context.write(message)
        except TimeoutError:
            self.at_most(COPIES * size)
            self._watch(patience)
            raise self._slow(patience) from None
        except grpc.aio.BaseError as error:  # The client has gone, and gRPC has not told this task yet.
            raise asyncio.CancelledError from error

    def last(self, size: int) -> None:
        """The only message of a reply goes out next, with so many bytes. Raises ResourceExhausted."""
        if size > LARGE:
            self.at_least(COPIES * size)
            self._watch(2 * self._replies.patience(size))

    def sent(self) -> None:
        """Hold nothing more: gRPC has let go of the call."""
        self.at_most(0)
        self._beside.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self, seconds: float) -> None:
        """End the connection after so many seconds, unless gRPC lets go of the call before."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._hang_up, seconds)

    def _hang_up(self, seconds: float) -> None:
        self._overdue = True
        if not all(reply._overdue for reply in self._beside):  # Somebody is served by this connection.
            self._watch(seconds)
            return
        peer = self._context.peer()
        log.warning("%s reads nothing of %s: its connection is ended", peer, self._method)
        hang_up(peer)

    def _slow(self, seconds: float) -> ConvLensError:
        text = f"the reply was not read for {seconds:g} s"
        name = self._method.rpartition("/")[2]
        if name in RESUMED:
            return Unavailable(f"{text}: {RESUMED[name]}", reason="SLOW_READER", retry_after=RETRY)
        return ResourceExhausted(f"{text}; ask again, and read faster or for less", reason="SLOW_READER")
