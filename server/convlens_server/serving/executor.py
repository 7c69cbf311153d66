"""The worker threads in which numpy and ONNX Runtime compute, so that the event loop never does."""

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
from convlens_server.request import cancellation, request_context
from convlens_server.settings import ServerSettings

P = ParamSpec("P")
R = TypeVar("R")

END: Final[Any] = object()
FIRST_RETRY: Final = 1.0
"""Seconds after which to come back to a server that does not know yet how long its calls take."""
SOONEST_RETRY: Final = 0.05
"""Least seconds after which a refused call is told to come back."""
NEWEST: Final = 0.1
"""Weight of the latest piece of work in the average over those of its method."""
THREADS_ON_GPU: Final = 32
"""Twice the images that a pass takes unless a manifest says otherwise: one batch runs, the next one forms."""


class Executor:
    """A pool of worker threads that admits a call if its turn will come soon.

    What waits is work that a thread could do now: a stream whose reader rests holds no thread and no place in
    the queue. When a caller leaves (cancels, or passes its deadline), its work is taken out of the queue, or
    interrupted in the network's current pass.

    Args:
        settings: say how many threads there are, and how many calls, seconds and bytes may wait for them.
        on_gpu: whether the threads mostly wait for a GPU, so that there should be more of them.

    Attributes:
        worker_threads: the number of threads.
        admitted: the number of calls that have begun and not ended.
        busy: the number of those calls that compute, or wait for a thread.
        held: the bytes of the requests of the busy calls.
    """

    def __init__(self, settings: ServerSettings, *, on_gpu: bool = False) -> None:
        self.worker_threads = worker_threads(settings, on_gpu=on_gpu)
        self._pool = ThreadPoolExecutor(self.worker_threads, thread_name_prefix="worker")
        self._settings = settings
        self._on_gpu = on_gpu
        self._streams = 0
        self._recent: dict[str, float] = {}
        self._ahead = 0.0
        self.admitted = 0
        self.busy = 0
        self.held = 0

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `function`, computed in a worker thread.

        Raises:
            ResourceExhausted: too many calls wait, or its turn would come too late; says when to come back.
        """
        with self._admission() as caller:
            return await self._in_thread(caller, partial(function, *args, **kwargs))

    async def stream(
        self, function: Callable[P, Iterator[R]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncGenerator[R]:
        """The items of a generator, each computed in a worker thread once the one before it has been taken.

        Raises:
            ResourceExhausted: as `run`, at the beginning; or too many streams are open.
        """
        if self._streams >= self._settings.max_streams:
            self._refuse(f"{self._streams} streams are open", "STREAMS")
        with self._admission() as caller:
            self._streams += 1
            try:
                items = function(*args, **kwargs)
                while (item := await self._in_thread(caller, partial(next, items, END))) is not END:
                    yield item
            finally:
                self._streams -= 1

    @property
    def wait(self) -> float:
        """Seconds until work that came now would have its turn, as far as recent calls can tell."""
        waiting = max(0, self.busy - self.worker_threads)
        return waiting * self._ahead / (self.busy * self.worker_threads) if waiting else 0.0

    def threads(self) -> int:
        """The CPU threads that a pass may use now: all for a caller who is alone, fewer the more there are.

        A power of two, so that few sessions are built; never more threads than CPUs in all passes together.
        On a GPU, where it matters little, always all: each number has sessions with copies of the weights.
        """
        cpus = self._settings.threads
        share = max(1, cpus // max(1, min(self.busy, self.worker_threads)))
        return cpus if self._on_gpu or share >= cpus else int(2 ** math.floor(math.log2(share)))

    def close(self) -> None:
        """Drop what waits, and let what computes finish."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _in_thread(self, caller: cancellation.Caller, work: Callable[[], R]) -> R:
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
        """Count a piece of work as long as its method's recent ones; yields what takes its real seconds."""
        context = request_context.current.get()
        method = context.method if context else ""
        expected, size = self._recent.get(method, 0.0), request_context.received.get()

        def measured(seconds: float) -> None:
            before = self._recent.get(method, seconds)
            self._recent[method] = before + NEWEST * (seconds - before)

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
        settings, waiting = self._settings, self.busy - self.worker_threads
        if waiting >= settings.max_waiting:
            self._refuse(f"{self.busy} calls are computing or waiting", "QUEUE_FULL")
        held = self.held + request_context.received.get()
        if waiting >= 0 and held > settings.max_waiting_megabytes * (1 << 20):
            text = f"requests of {self.held / (1 << 20):.1f} MiB are computing or waiting"
            self._refuse(text, "QUEUE_BYTES")
        if self.wait > settings.max_wait:
            self._refuse(f"{waiting} calls wait, some {self.wait:.1f} s of work", "QUEUE_LONG")
        context = request_context.current.get()
        left = context.servicer_context.time_remaining() if context else None
        if left is not None and self.wait > left:
            text = f"its turn would come after some {self.wait:.1f} s, its deadline passes in {left:.1f} s"
            self._refuse(text, "DEADLINE")

    def _refuse(self, text: str, reason: str) -> NoReturn:
        delay = max(SOONEST_RETRY, self.wait) if self._recent else FIRST_RETRY
        raise ResourceExhausted(text, reason=reason, retry_after=delay)


def worker_threads(settings: ServerSettings, *, on_gpu: bool) -> int:
    """The number of threads: `settings.lanes`, and more where they wait for a GPU, unless it is set."""
    chosen = "lanes" in settings.model_fields_set
    return max(settings.lanes, THREADS_ON_GPU) if on_gpu and not chosen else settings.lanes
