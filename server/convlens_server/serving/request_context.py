"""A call while it is served: what is known of it, wherever the code is that works for it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import grpc

if TYPE_CHECKING:
    from convlens_server.identity.principal import Principal

Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")

GAP: Final = 0.0005
"""Seconds between two stretches of a phase below which they are one interval."""
MOST_INTERVALS: Final = 64
END: Final[Any] = object()


@dataclass(slots=True)
class RequestContext:
    """One call of a client.

    Attributes:
        method: "/package.Service/Method".
        context: gRPC's.
        kind: "unary_unary", "unary_stream", "stream_unary" or "stream_stream".
        request: the message, or the stream of them.
        id: for logs and errors; the same in both.
        started: on the clock of `time.perf_counter`.
        code: how it has ended, as gRPC names it.
        reason: the error's, where it has ended in one of ours.
        principal: who makes it, once that is known.
        phases: seconds spent in "queue", "cache", "decode", "compute", "encode".
        cache: what the response cache did for it: "hit", "miss" or "error"; "" where it was not asked.
        intervals: the first of these, as they were: phase, begin and end on the clock of `started`.
    """

    method: str
    context: Context
    kind: str = "unary_unary"
    request: Any = None
    id: str = field(default_factory=lambda: os.urandom(16).hex())
    started: float = field(default_factory=time.perf_counter)
    code: str = "OK"
    reason: str = ""
    principal: Principal | None = None
    cache: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    intervals: list[tuple[str, float, float]] = field(default_factory=list)

    def header(self, name: str) -> str:
        """The client's metadata of that name; "" unless there is exactly one, of text."""
        found = [value for key, value in self.context.invocation_metadata() or () if key == name]
        return found[0] if len(found) == 1 and isinstance(found[0], str) else ""

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.perf_counter() - self.started


Proceed = Callable[[RequestContext], Awaitable[Any]]
"""Serves a call: what it gives is the reply, if there is one and it is not a stream."""
Middleware = Callable[[RequestContext, Proceed], Awaitable[Any]]
"""Something that happens around every call, as errors, identity, quotas and metrics."""

Method = TypeVar("Method", bound=Callable[..., Any])


def reads(deserialize: Callable[[bytes], Any]) -> Callable[[Method], Method]:
    """A servicer's method that takes what `deserialize` makes of a request, instead of protobuf's message."""

    def mark(method: Method) -> Method:
        method.deserialize = deserialize  # type: ignore[attr-defined]
        return method

    return mark


current: ContextVar[RequestContext | None] = ContextVar("call", default=None)
"""The call that this task or thread works for."""
received: ContextVar[int] = ContextVar("received", default=0)
"""Bytes of the request message that this task got last."""


def afterwards(function: Callable[..., object], *args: object) -> None:
    """RequestContext a function in the current task's context as soon as gRPC has been given the reply."""
    asyncio.get_running_loop().call_soon(function, *args)


class phase:  # noqa: N801 - used as a function is.
    """Counts the time within it as that phase of the current call, if there is one."""

    __slots__ = ("_began", "_name")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        add(self._name, time.perf_counter() - self._began)


def timed(name: str, items: Iterable[T]) -> Iterator[T]:
    """The same items; counts the making of each as that phase."""
    iterator = iter(items)
    while True:
        with phase(name):
            item = next(iterator, END)
        if item is END:
            return
        yield item


def add(name: str, seconds: float) -> None:
    """Adds a stretch that ends now to a phase of the current call, if there is one."""
    call = current.get()
    if call is None:
        return
    call.phases[name] = call.phases.get(name, 0.0) + seconds
    now = time.perf_counter()
    if call.intervals and call.intervals[-1][0] == name and now - seconds - call.intervals[-1][2] < GAP:
        call.intervals[-1] = (name, call.intervals[-1][1], now)
    elif len(call.intervals) < MOST_INTERVALS:
        call.intervals.append((name, now - seconds, now))
