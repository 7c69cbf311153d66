"""The lanes: threads in which numpy and ONNX Runtime work, so that the event loop never does."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

from convlens.errors import ResourceExhausted
from convlens_server.serving import cancellation, request_context

P = ParamSpec("P")
R = TypeVar("R")

END: Final[Any] = object()
FIRST_RETRY: Final = 1.0
"""Seconds after which to come back to a server that does not know yet how long its calls take."""
SOONEST_RETRY: Final = 0.05
NEWEST: Final = 0.1
"""Weight of the latest piece of work in the average of its kind."""


class Executor:
    """A thread pool that admits calls for as long as they will have their turn soon.

    What waits is work that a lane could do now: a stream whose reader rests holds no lane and no place in the
    queue. When a caller leaves (cancels, or passes its deadline), its work is taken out of the queue, or
    interrupted in the network's current pass.

    Args:
        lanes: threads.
        max_waiting: calls that may wait for a lane.
        max_wait: seconds that a call may be expected to wait for a lane.
        max_streams: streams that may be open, computing or not: each holds the tensors that it sends.
        max_bytes: of the requests that compute or wait, beyond which none waits.

    Attributes:
        admitted: calls that have begun and not ended.
        busy: those of them that compute, or wait for a lane.
        held: bytes of these calls' requests.
    """

    def __init__(
        self,
        lanes: int,
        max_waiting: int,
        max_wait: float = math.inf,
        max_streams: int = 1 << 30,
        max_bytes: float = math.inf,
    ) -> None:
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
        self._lanes = lanes
        self._limit = lanes + max_waiting
        self._max_wait = max_wait
        self._max_streams = max_streams
        self._max_bytes = max_bytes
        self._streams = 0
        self._recent: dict[str, float] = {}
        self._ahead = 0.0
        self.admitted = 0
        self.busy = 0
        self.held = 0

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `function`, computed in a lane.

        Raises:
            ResourceExhausted: too many calls wait, or its turn would come too late; says when to come back.
        """
        with self._admission() as caller:
            return await self._in_lane(caller, partial(function, *args, **kwargs))

    async def stream(
        self, function: Callable[P, Iterator[R]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncGenerator[R]:
        """The items of a generator, each computed in a lane once the one before it has been taken.

        Raises:
            ResourceExhausted: as `run`, at the beginning; or too many streams are open.
        """
        if self._streams >= self._max_streams:
            self._refuse(f"{self._streams} streams are open", "STREAMS")
        with self._admission() as caller:
            self._streams += 1
            try:
                items = function(*args, **kwargs)
                while (item := await self._in_lane(caller, partial(next, items, END))) is not END:
                    yield item
            finally:
                self._streams -= 1

    @property
    def wait(self) -> float:
        """Seconds after which work that came now would have its turn, as far as recent calls can tell."""
        waiting = max(0, self.busy - self._lanes)
        return waiting * self._ahead / (self.busy * self._lanes) if waiting else 0.0

    def threads(self, cpus: int) -> int:
        """Threads that a pass may use now: all CPUs for a caller who is alone, fewer the more there are.

        A power of two, so that few sessions are built; never more threads than CPUs in all lanes together.
        """
        share = max(1, cpus // max(1, min(self.busy, self._lanes)))
        return int(2 ** math.floor(math.log2(share))) if share < cpus else cpus

    def close(self) -> None:
        """Drop what waits, and let what computes finish."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _in_lane(self, caller: cancellation.Caller, work: Callable[[], R]) -> R:
        context = copy_context()
        context.run(cancellation.current.set, caller)
        submitted, began = time.perf_counter(), 0.0

        def begin() -> R:
            nonlocal began
            began = time.perf_counter()
            request_context.add("queue", began - submitted)
            return work()

        with self._expected() as measured:
            try:
                # Cancelling this future takes the work out of the pool's queue if no thread has it yet.
                return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, begin)
            finally:
                if began:
                    measured(time.perf_counter() - began)

    @contextmanager
    def _expected(self) -> Iterator[Callable[[float], None]]:
        """Counts a piece of work, by how long the method's recent ones took; to be told how long it did."""
        call = request_context.current.get()
        kind = call.method if call else ""
        expected, size = self._recent.get(kind, 0.0), request_context.received.get()

        def measured(seconds: float) -> None:
            before = self._recent.get(kind, seconds)
            self._recent[kind] = before + NEWEST * (seconds - before)

        self.busy += 1
        self.held += size
        self._ahead += expected
        try:
            yield measured
        finally:
            self.busy -= 1
            self.held -= size
            self._ahead = self._ahead - expected if self.busy else 0.0

    @contextmanager
    def _admission(self) -> Iterator[cancellation.Caller]:
        # Only the event loop comes here, so the counts need no lock.
        self._check()
        self.admitted += 1
        caller = cancellation.Caller()
        try:
            yield caller
        finally:
            self.admitted -= 1
            caller.leave()

    def _check(self) -> None:
        """Refuse a call that should not wait: the sooner it knows, the less is lost."""
        if self.busy >= self._limit:
            self._refuse(f"{self.busy} calls are computing or waiting", "QUEUE_FULL")
        if self.busy >= self._lanes and self.held + request_context.received.get() > self._max_bytes:
            text = f"requests of {self.held / (1 << 20):.1f} MiB are computing or waiting"
            self._refuse(text, "QUEUE_BYTES")
        if self.wait > self._max_wait:
            self._refuse(
                f"{self.busy - self._lanes} calls wait, some {self.wait:.1f} s of work", "QUEUE_LONG"
            )
        call = request_context.current.get()
        left = call.context.time_remaining() if call else None
        if left is not None and self.wait > left:
            text = f"its turn would come after some {self.wait:.1f} s, its deadline passes in {left:.1f} s"
            self._refuse(text, "DEADLINE")

    def _refuse(self, text: str, reason: str) -> NoReturn:
        delay = max(SOONEST_RETRY, self.wait) if self._recent else FIRST_RETRY
        raise ResourceExhausted(text, reason=reason, retry_after=delay)
