"""A call on its way through a worker thread: its work, what it costs, and the items that its reader takes."""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol

from google.protobuf.message import Message

from convlens.wire import pausing
from convlens_server.identity.principal import principal, sharer
from convlens_server.request import cancellation, request_context
from convlens_server.serving.scheduler import Work

END: Final[Any] = object()
LEAST: Final = 256
"""Bytes that an item takes at least while it waits for its reader."""


class Later(Exception):
    """Ends the first step of a call that is longer than others: it begins anew when its turn comes."""


class Cost(NamedTuple):
    """What a call costs: a key under which its pace is learned, and the number of its units."""

    key: str
    units: float


class Host(Protocol):
    """What runs calls; all but the last two are called in the event loop."""

    def add(self, call: Call) -> None:
        """Have a thread take the call's work."""

    def rest(self, call: Call) -> None:
        """The work neither waits for a thread nor has one any more."""

    def expect(self, call: Call) -> None:
        """See whether the call, whose cost is known now, may go on. Raises ResourceExhausted, Later."""

    def give_way(self, call: Call) -> None:
        """Run what is shorter, in this thread."""


class Outcome(NamedTuple):
    """What a step came to: an item or an error, its bytes, and whether it is the last."""

    item: Any = None
    error: BaseException | None = None
    size: int = LEAST
    last: bool = True


class Call(Work):
    """The work of a call, and the queue from which its reader takes the items.

    Args:
        host: runs it.
        begin: begins the work; gives what computes the next item, or END, each time it is called.
        single: whether there is one item, and nothing behind it.
        ahead: bytes of items that the reader has not taken, below which the next one is computed.

    Attributes:
        caller: who waits for it, and may leave.
        method: the name of the RPC.
        sharer: who shares room with others for it.
        deadline: when the caller stops waiting, on the clock of `time.monotonic`; infinity: never.
        size: the bytes of the request.
        looks: what is known of it from outside: its method, and about how large its request is.
        cost: what it costs, once that is known.
        seen: whether that has been looked at.
        active: whether it waits for a thread, or has one.
        ended: whether its last item has come.
    """

    def __init__(
        self, host: Host, begin: Callable[[], Callable[[], Any]], *, single: bool, ahead: float
    ) -> None:
        super().__init__(principal().tenant)
        self.since = time.monotonic()
        self._host, self._begin, self._single, self._ahead = host, begin, single, ahead
        self._next: Callable[[], Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._unread, self._taken, self._resting = 0, 0, True
        self._came: Outcome | None = None
        self._items: deque[Outcome] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._queued = 0.0
        request = request_context.current.get()
        left = request.servicer_context.time_remaining() if request else None
        self.method = request.method if request else ""
        self.sharer = sharer()
        self.deadline = math.inf if left is None else time.monotonic() + left
        self.size = request_context.received.get()
        self.looks = self.method, self.size.bit_length()
        self.cost: Cost | None = None
        self.seen = False
        self.active = self.ended = False
        myself = weakref.ref(self)  # The context must not hold what holds it: requests would wait for the GC.
        self.caller = cancellation.Caller(lambda: _give_way(host, myself()))
        self._context = copy_context()
        self._context.run(cancellation.current.set, self.caller)
        self._context.run(current.set, myself)
        self._context.run(pausing.set, self.caller.pause)

    async def read(self) -> Any:
        """The next item, or END. Raises what the work has raised."""
        self._take()
        while not self._items:
            self._arrival = self._loop.create_future()
            await self._arrival
        outcome = self._items.popleft()
        if outcome.error is not None:
            raise outcome.error
        self._taken = outcome.size
        return outcome.item

    def queued(self) -> None:
        """Begin to count the time that it waits for a thread."""
        self._queued = time.perf_counter()

    def drop(self) -> None:
        """Have the reader know that nobody will compute it."""
        if self._arrival is not None:
            self._arrival.cancel()

    def expect(self, model: str, units: float) -> None:
        """Take the cost down, and see what follows. Raises ResourceExhausted, Later."""
        self.cost = Cost(f"{self.method} {model}", units)
        self._host.expect(self)

    def step(self) -> None:
        """Compute the next item."""
        self._came = self._context.run(self._compute)

    def settle(self) -> bool:
        """Hand the item to the reader. True if the next one may be computed at once."""
        outcome, self._came = self._came, None
        if outcome is None:
            return True
        with self._lock:
            self._unread += outcome.size
            goes_on = not outcome.last and self._unread < self._ahead
            self._resting = not goes_on and not outcome.last
        with suppress(RuntimeError):  # The event loop has ended, and with it whoever waited.
            self._loop.call_soon_threadsafe(self._arrived, outcome, goes_on)
        return goes_on

    def _compute(self) -> Outcome | None:
        """What the step comes to; None if it is to be taken again."""
        request_context.add("queue", time.perf_counter() - self._queued)
        try:
            if self._next is None:
                self._next = self._begin()
            item = self._next()
        except Later:
            self._next, self.again = None, True
            return None
        except BaseException as error:
            return Outcome(error=error)
        finally:
            self.queued()
        return Outcome(item, None, LEAST + _bytes(item), self._single or item is END)

    def _take(self) -> None:
        """Count what was read last as gone, and have the work go on if that makes room."""
        with self._lock:
            self._unread, self._taken = self._unread - self._taken, 0
            goes_on = self._resting and (self._unread < self._ahead or not self._unread)
            self._resting = self._resting and not goes_on
        if goes_on:
            self._host.add(self)

    def _arrived(self, outcome: Outcome, goes_on: bool) -> None:
        self._items.append(outcome)
        self.ended = outcome.last and outcome.error is None
        if not goes_on:
            self._host.rest(self)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


current: ContextVar[Callable[[], Call | None]] = ContextVar("call", default=lambda: None)
"""Gives the call that this thread works for, if there is one."""


def expect(model: str, units: float) -> None:
    """Say what the current call will cost, if there is one, before it takes long.

    Args:
        model: the network whose passes they are, as paces differ.
        units: multiply-adds, and what else takes time as so many of them.

    Raises:
        ResourceExhausted: it would not end before its deadline, or wait too long.
        Later: others go first; what has begun it begins it anew, when its turn comes.
    """
    if call := current.get()():
        call.expect(model, units)


def _give_way(host: Host, call: Call | None) -> None:
    if call is not None:
        host.give_way(call)


def _bytes(item: Any) -> int:
    """The bytes that an item holds until it is read; of what tells none, 0."""
    return item.ByteSize() if isinstance(item, Message) else getattr(item, "nbytes", 0)
