"""Requests as they arrive: a message is read once there is room for the largest that it may turn out to be.

gRPC tells no length before a message is whole, and takes of an unread one a few kilobytes. So what all
messages hold that have not arrived is bounded by how many are read at the same time: each has a place.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from convlens.errors import InvalidArgument, ResourceExhausted, Unavailable
from convlens_server.edge.room import Room
from convlens_server.request.request_context import ServicerContext, received

COPIES: Final = 2
"""A message that has arrived is there as bytes, and as what was read from them; while gRPC gives it out, as
bytes and as pieces."""
PLACES: Final = 2
"""The number of messages that may arrive at the same time, however little room there is."""
RETRY: Final = 1.0
"""Seconds after which to come back where there was no room."""
CANCELLATION: Final = 0.1
"""Seconds in which gRPC tells that a call without a message has been cancelled, or was refused by itself."""
HALF_LIFE: Final = 10.0
"""Seconds after which what a caller has held counts half."""
LITTLE: Final = 1.0
"""Seconds of one place: who has had less lately may have the last one, and others give up theirs for it."""
LOOK: Final = 0.1
"""Seconds between two looks at who is to give up a place, while others wait for one."""
MOST_KNOWN: Final = 1024
"""The number of callers from which on those who have had nothing for long are forgotten."""
END: Final[Any] = object()


class Had:
    """What callers have held lately, in byte-seconds that are forgotten by and by.

    Args:
        room: what they hold now; it is asked before each change.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._until: dict[str | None, tuple[float, float]] = {}

    def by(self, caller: str | None) -> float:
        """Byte-seconds of a caller until now."""
        now = time.monotonic()
        if caller not in self._until and len(self._until) >= MOST_KNOWN:
            self._forget(now - 10 * HALF_LIFE)
        had, then = self._until.get(caller, (0.0, now))
        left: float = 0.5 ** ((now - then) / HALF_LIFE)
        had = had * left + self._room.of(caller) * (1 - left) * HALF_LIFE / math.log(2)
        self._until[caller] = had, now
        return had

    def _forget(self, before: float) -> None:
        """Forget those who have nothing, and have had nothing since."""
        for caller, (_, then) in list(self._until.items()):
            if then < before and not self._room.of(caller):
                del self._until[caller]


class Place:
    """Where one message of a caller arrives, or will."""

    def __init__(self, caller: str | None) -> None:
        self.caller, self.since = caller, time.monotonic()
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.patience: asyncio.Timeout | None = None
        self.given_up = False

    def give_up(self) -> None:
        """Have whoever reads there end."""
        self.given_up = True
        if self.patience is not None:
            self.patience.reschedule(0)


class Uploads:
    """The bytes that requests may hold.

    Whoever has had the least lately comes first. The last place goes to those alone who have had little; and
    who has had more than others, twice as much and a bit, gives one up for them.

    Args:
        total: bytes of all together; there is always room for `PLACES` of the largest messages.
        largest: bytes of the largest message.
        seconds: in which a message must arrive, and for which one may wait until it is read.
    """

    def __init__(self, total: int, largest: int, seconds: float) -> None:
        self.size, self.seconds = COPIES * largest, seconds
        self.room = Room(max(total, PLACES * self.size))
        self._had = Had(self.room)
        self._waiting: dict[str | None, deque[Place]] = {}
        self._arriving: dict[Place, None] = {}
        self._looking: asyncio.TimerHandle | None = None

    async def take(self, caller: str | None) -> Place:
        """A place for a caller (None for one that may take all), and `size` bytes held for it.

        Raises:
            ResourceExhausted: there was none in time.
        """
        place = Place(caller)
        if self._admit(place):
            return place
        self._waiting.setdefault(caller, deque()).append(place)
        self._look()
        try:
            async with asyncio.timeout(self.seconds):
                await place.turn
        except (TimeoutError, asyncio.CancelledError) as error:
            self._withdraw(place)
            if isinstance(error, asyncio.CancelledError):
                raise
            text = f"requests hold {self.room.held >> 20} of {self.room.total >> 20} MiB"
            raise ResourceExhausted(text, reason="UPLOAD_BYTES", retry_after=RETRY) from None
        return place

    async def read(self, place: Place, message: Awaitable[Any]) -> Any:
        """What arrives in a place, for whose bytes it goes on counting. Raises Unavailable."""
        try:
            async with asyncio.timeout(0 if place.given_up else self.seconds) as place.patience:
                return await message
        except TimeoutError:
            text = f"the message has not arrived within {time.monotonic() - place.since:.2g} s"
            why = ", and others, who have had less, need its room" if place.given_up else ""
            raise Unavailable(text + why, reason="UPLOAD_STALLED", retry_after=RETRY) from None
        finally:
            del self._arriving[place]

    def give(self, caller: str | None, size: int) -> None:
        """Hold so many bytes less, and let those read who now have room."""
        self._had.by(caller)
        self.room.give(caller, size)
        for each in sorted(self._waiting, key=self._had.by) if self._waiting else ():
            queue = self._waiting[each]
            while queue and self._admit(queue[0]):
                turn = queue.popleft().turn
                if not turn.done():  # Else it is just being withdrawn, and gives its place on.
                    turn.set_result(None)
            if not queue:
                del self._waiting[each]

    def _admit(self, place: Place) -> bool:
        caller, size = place.caller, self.size
        had = self._had.by(caller)
        keeps_one = caller is None or self.room.free >= 2 * size or had < LITTLE * size
        if not (keeps_one and self.room.take(caller, size)):
            return False
        place.since = time.monotonic()
        self._arriving[place] = None
        return True

    def _withdraw(self, place: Place) -> None:
        """Nobody wants the place any more, whether it has been had in this very moment or not."""
        if place in self._arriving:
            del self._arriving[place]
            self.give(place.caller, self.size)
            return
        queue = self._waiting[place.caller]
        queue.remove(place)
        if not queue:
            del self._waiting[place.caller]

    def _look(self) -> None:
        """See whether somebody is to give up a place, now and again while others wait."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if not self._waiting:
            return
        self._looking = asyncio.get_running_loop().call_later(LOOK, self._look)
        needy = [each for each in self._waiting if self.room.of(each) < self.size]
        if needy and not any(place.given_up for place in self._arriving):
            self._make_room(min(map(self._had.by, needy)))

    def _make_room(self, least: float) -> None:
        """Have the oldest place given up of the caller who has had most, if that is much."""
        had = {place.caller: self._had.by(place.caller) for place in self._arriving}
        most = max(had, key=had.__getitem__, default=None)
        if most is not None and had[most] > 2 * least + LITTLE * self.size:
            next(place for place in self._arriving if place.caller == most).give_up()


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
            Unavailable: as `Uploads.read`.
        """
        self.close()
        place = await self._uploads.take(self._caller)
        self._held = self._uploads.size
        data = await self._uploads.read(place, self._context.read())
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
