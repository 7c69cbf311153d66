"""The lanes: threads in which numpy and ONNX Runtime work, so that the event loop never does."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from convlens.errors import ResourceExhausted
from convlens_server import calls, cancellation

P = ParamSpec("P")
R = TypeVar("R")

END: Final[Any] = object()


class Executor:
    """A thread pool that admits a bounded number of calls.

    When a caller leaves (cancels, or passes its deadline), its work is taken out of the queue, or interrupted
    in the network's current pass.
    """

    def __init__(self, lanes: int, max_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
        self._lanes = lanes
        self._limit = lanes + max_waiting
        self.admitted = 0

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `function`, computed in a lane. Raises ResourceExhausted when too many calls wait."""
        with self._admission() as caller:
            return await self._in_lane(caller, partial(function, *args, **kwargs))

    async def stream(
        self, function: Callable[P, Iterator[R]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncIterator[R]:
        """The items of a generator, each computed in a lane once the one before it has been taken."""
        with self._admission() as caller:
            items = function(*args, **kwargs)
            while (item := await self._in_lane(caller, partial(next, items, END))) is not END:
                yield item

    def threads(self, cpus: int) -> int:
        """Threads that a pass may use now: all CPUs for a caller who is alone, fewer the more there are.

        A power of two, so that few sessions are built; never more threads than CPUs in all lanes together.
        """
        share = max(1, cpus // max(1, min(self.admitted, self._lanes)))
        return int(2 ** math.floor(math.log2(share))) if share < cpus else cpus

    def close(self) -> None:
        """Drop what waits, and let what computes finish."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _in_lane(self, caller: cancellation.Caller, work: Callable[[], R]) -> R:
        context = copy_context()
        context.run(cancellation.current.set, caller)
        submitted = time.perf_counter()

        def begin() -> R:
            calls.add("queue", time.perf_counter() - submitted)
            return work()

        # Cancelling this future takes the work out of the pool's queue if no thread has it yet.
        return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, begin)

    @contextmanager
    def _admission(self) -> Iterator[cancellation.Caller]:
        # Only the event loop comes here, so the count needs no lock.
        if self.admitted >= self._limit:
            raise ResourceExhausted(f"{self.admitted} calls are computing or waiting", retry_after=1.0)
        self.admitted += 1
        caller = cancellation.Caller()
        try:
            yield caller
        finally:
            self.admitted -= 1
            caller.leave()
