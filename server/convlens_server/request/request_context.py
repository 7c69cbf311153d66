"""The context of a request while it is served, which all code that works for it can reach."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc

from convlens.errors import ConvLensError

ServicerContext = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")

GAP: Final = 0.0005
"""Two stretches of a phase with fewer seconds between them are one interval."""
MOST_INTERVALS: Final = 64
"""The number of intervals that are kept of one call."""
END: Final[Any] = object()


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # No loop is running here.
        return None


@dataclass(slots=True, eq=False)
class RequestContext:
    """One call of a client.

    Attributes:
        method: "/package.Service/Method".
        servicer_context: gRPC's own context of the call.
        kind: "unary_unary", "unary_stream", "stream_unary" or "stream_stream".
        request: the message, or the stream of messages, that the client sends; None until it is read.
        reply: takes the messages of the reply to the client; None until the request is read.
        id: the call's name in logs and in errors, the same in both.
        started: when the call began, in seconds on the clock of `time.perf_counter`.
        code: the name of the gRPC status that the call has ended with.
        reason: the reason of the ConvLensError that the call has ended with, if it has.
        cache: what the reply cache did for the call: "hit", "miss" or "error"; "" where it was not asked.
        phases: seconds spent in "queue", "cache", "decode", "compute" and "encode".
        intervals: the first stretches of these phases: name, begin and end on the clock of `started`.
        away: seconds for which its threads have worked for others in between, which are of the phase "queue".
    """

    method: str
    servicer_context: ServicerContext
    kind: str = "unary_unary"
    request: Any = None
    reply: Any = None
    id: str = field(default_factory=lambda: os.urandom(16).hex())
    started: float = field(default_factory=time.perf_counter)
    code: str = "OK"
    reason: str = ""
    cache: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    intervals: list[tuple[str, float, float]] = field(default_factory=list)
    away: float = 0.0
    _task: asyncio.Task[Any] | None = field(default_factory=_current_task)
    _ended: ConvLensError | None = None

    def header(self, name: str) -> str:
        """The client's metadata of that name; "" unless there is exactly one value, of text."""
        metadata = self.servicer_context.invocation_metadata() or ()
        values = [value for key, value in metadata if key == name]
        return values[0] if len(values) == 1 and isinstance(values[0], str) else ""

    def end(self, error: ConvLensError) -> None:
        """Have the call end with an error, wherever it is."""
        if self._task is not None and self._ended is None and not self._task.done():
            self._ended = error
            self._task.cancel()

    def ended(self) -> ConvLensError | None:
        """The error that `end` was given; the task that it was given for is no longer to be cancelled."""
        if self._ended is not None and self._task is not None:
            self._task.uncancel()
        return self._ended

    @property
    def seconds(self) -> float:
        """The seconds since the call began."""
        return time.perf_counter() - self.started


Proceed = Callable[[RequestContext], Awaitable[Any]]
"""Serves a call and returns the reply, or None where replies are a stream."""
Middleware = Callable[[RequestContext, Proceed], Awaitable[Any]]
"""Runs code around every call, as for errors, identity, quotas and metrics; calls the rest by `Proceed`."""

Method = TypeVar("Method", bound=Callable[..., Any])


def reads(deserialize: Callable[[bytes], Any]) -> Callable[[Method], Method]:
    """Have a servicer's method take what `deserialize` makes of a request, instead of protobuf's message."""

    def mark(method: Method) -> Method:
        method.deserialize = deserialize  # type: ignore[attr-defined]
        return method

    return mark


current: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
"""The request that this task or thread works for."""
received: ContextVar[int] = ContextVar("received", default=0)
"""The length in bytes of the request message that this task got last."""


def hold(size: int) -> None:
    """Have the reply of the current call, if there is one, hold so many bytes until it has been read.

    Raises:
        ResourceExhausted: replies that nobody has read leave no room for it.
    """
    context = current.get()
    if context is not None and context.reply is not None:
        context.reply.at_least(size)


def afterwards(function: Callable[..., object], *args: object) -> None:
    """Call a function in the current task's context as soon as gRPC has been given the reply."""
    asyncio.get_running_loop().call_soon(function, *args)


class phase:  # noqa: N801 - used as a function is.
    """Counts the seconds within the block, but for those of others, as a phase of the current call."""

    __slots__ = ("_away", "_began", "_name")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> Self:
        context = current.get()
        self._away = context.away if context else 0.0
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        seconds, context = time.perf_counter() - self._began, current.get()
        if context is not None:
            add(self._name, max(0.0, seconds - (context.away - self._away)))


def gave_way(seconds: float) -> None:
    """Put seconds in which this thread has worked for others down to the queue."""
    if context := current.get():
        context.away += seconds
        add("queue", seconds)


def timed(name: str, items: Iterable[T]) -> Iterator[T]:
    """The same items, where the making of each counts as that phase of the current call."""
    iterator = iter(items)
    while True:
        with phase(name):
            item = next(iterator, END)
        if item is END:
            return
        yield item


def add(name: str, seconds: float) -> None:
    """Add a stretch of `seconds` that ends now to a phase of the current call, if there is one."""
    context = current.get()
    if context is None:
        return
    context.phases[name] = context.phases.get(name, 0.0) + seconds
    now, intervals = time.perf_counter(), context.intervals
    if intervals and intervals[-1][0] == name and now - seconds - intervals[-1][2] < GAP:
        intervals[-1] = (name, intervals[-1][1], now)
    elif len(intervals) < MOST_INTERVALS:
        intervals.append((name, now - seconds, now))
