"""The worker threads in which numpy and ONNX Runtime compute, so that the event loop never does."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

from convlens.errors import ResourceExhausted
from convlens_server.edge.room import Room
from convlens_server.identity.principal import sharer
from convlens_server.request import request_context
from convlens_server.serving.call import END, Call, Later
from convlens_server.serving.paces import ALIKE, Likes, Paces
from convlens_server.serving.scheduler import Scheduler
from convlens_server.settings import ServerSettings

P = ParamSpec("P")
R = TypeVar("R")

FIRST_RETRY: Final = 1.0
"""Seconds after which to come back to a server that does not know yet how long its calls take."""
SOONEST_RETRY: Final = 0.05
"""Least seconds after which a refused call is told to come back."""
THREADS_ON_GPU: Final = 32
"""Twice the images that a pass takes unless a manifest says otherwise: one batch runs, the next one forms."""
PACE: Final = 1 / 3e10
"""Seconds a multiply-add on one thread, before any was measured."""
SCALING: Final = 0.75
"""A pass on n threads is n to this power as fast as on one, about."""
PATIENCE: Final = 5.0
"""A call may wait for others so many times as long as it takes itself, if that is longer than the setting."""
MARGIN: Final = 1.1
"""A call is begun only if it would end in time even if everything took so many times as long as expected: one
that ends just too late has cost as much as one that is of use."""
DOUBT: Final = 4.0
"""A call that nothing is ahead of is tried unless it is expected to take so many times what is left to it."""


class Executor:
    """Worker threads that admit a call if it will end soon enough.

    What waits is work that a thread could do now: a stream whose reader rests holds no thread and no place in
    the queue. When a caller leaves (cancels, or passes its deadline), its work is taken out of the queue, or
    interrupted in the network's current pass. The scheduler tells in which order calls are computed.

    Args:
        settings: say how many threads there are, and how many calls, seconds and bytes may wait for them.
        on_gpu: whether the threads mostly wait for a GPU, so that there should be more of them.

    Attributes:
        worker_threads: the number of threads.
        scheduler: hands the calls' work to the threads.
        admitted: the number of calls that have begun and not ended.
    """

    def __init__(self, settings: ServerSettings, *, on_gpu: bool = False) -> None:
        self.worker_threads = worker_threads(settings, on_gpu=on_gpu)
        self.scheduler = Scheduler(self.worker_threads, settings.tenant_weights, speed=self._speed)
        self._settings = settings
        self._on_gpu = on_gpu
        self._streams = Room(settings.max_streams)
        bytes_ = int(settings.max_waiting_megabytes * (1 << 20))
        self._places, self._bytes = (
            Room(self.worker_threads + settings.max_waiting),
            Room(bytes_, bytes_ // 8),
        )
        self._paces, self._calls, self._likes = Paces(PACE), Paces(), Likes()
        self._costed: set[str] = set()
        self.admitted = 0

    @property
    def busy(self) -> int:
        """The number of calls that have not ended and compute, or wait for a thread."""
        return self._places.held

    @property
    def held(self) -> int:
        """The bytes of the requests of the busy calls."""
        return self._bytes.held

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `function`, computed in a worker thread.

        Raises:
            ResourceExhausted: too many calls wait, or it would not end in time; says when to come back.
        """
        work = partial(function, *args, **kwargs)
        with self._admission(lambda: work, single=True) as call:
            result: R = await call.read()
            return result

    async def stream(
        self, function: Callable[P, Iterator[R]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncGenerator[R]:
        """The items of a generator, computed in worker threads, as far ahead of the reader as settings let.

        Raises:
            ResourceExhausted: as `run`, at the beginning; or too many streams are open.
        """
        caller, streams = sharer(), self._streams
        if not streams.fits(caller, 1):
            self._refuse(f"{streams.held} streams are open", "STREAMS", self.wait)

        def begin() -> Callable[[], Any]:
            return partial(next, function(*args, **kwargs), END)

        with self._admission(begin, single=False) as call:
            streams.hold(caller, 1)
            try:
                while (item := await call.read()) is not END:
                    yield item
            finally:
                streams.give(caller, 1)

    @property
    def wait(self) -> float:
        """Seconds until what waits would have been worked off, as far as recent calls can tell."""
        return self.scheduler.backlog / self.worker_threads

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
        for work in self.scheduler.close():
            if isinstance(work, Call):
                work.drop()

    def add(self, call: Call) -> None:
        """Have a thread take the call's work."""
        call.active = True
        self._places.hold(call.sharer, 1)
        self._bytes.hold(call.sharer, call.size)
        call.queued()
        self.scheduler.add(call)

    def rest(self, call: Call) -> None:
        """The call's work neither waits nor runs any more."""
        if call.active:
            call.active = False
            self._places.give(call.sharer, 1)
            self._bytes.give(call.sharer, call.size)

    def expect(self, call: Call) -> None:
        """See whether a call whose cost is known now may go on. Raises ResourceExhausted, Later."""
        self._costed.add(call.method)
        guessed, found, seen, call.seen = call.expected, self._found(call), call.seen, True
        if guessed is None or not guessed / ALIKE <= found <= ALIKE * guessed:
            call.expected = found  # Else it stays: what has begun would seem longer than those behind it.
        new = not seen and (guessed is None or found > ALIKE * guessed)
        self._check_end(call, new=new)
        if new and not self.scheduler.is_first(call):
            raise Later

    def give_way(self, call: Call) -> None:
        """Run what is shorter than this call, in its thread."""
        if seconds := self.scheduler.give_way(call):
            request_context.gave_way(seconds)

    @contextmanager
    def _admission(self, begin: Callable[[], Callable[[], Any]], *, single: bool) -> Iterator[Call]:
        # Only the event loop comes here, so the counts need no lock.
        self._check_room()
        ahead = 0 if single else self._settings.stream_ahead_megabytes * (1 << 20)
        call = Call(self, begin, single=single, ahead=ahead)
        if call.method not in self._costed:
            call.expected = self._calls.of(call.method) or 0.0
        else:  # Where nothing tells, it is looked at as soon as a thread comes by.
            call.expected = self._likes.of(call.looks)
        if call.expected is not None:
            self._check_end(call, new=True)
        self.admitted += 1
        try:
            yield call
        finally:
            self.admitted -= 1
            call.caller.leave()
            self.scheduler.remove(call)
            self.rest(call)
            self._learn(call)

    def _learn(self, call: Call) -> None:
        if call.cost is not None:
            self._likes.learn(call.looks, self._found(call))
        if call.ended and call.cost is not None:
            self._paces.learn(*call.cost, call.done)
        elif call.ended and call.method not in self._costed:
            self._calls.learn(call.method, 1, call.done)

    def _found(self, call: Call) -> float:
        """Seconds that a call takes by its cost."""
        return call.cost.units * (self._paces.of(call.cost.key) or 0.0) if call.cost else 0.0

    def _speed(self) -> float:
        return float(self.threads() ** SCALING)

    def _check_room(self) -> None:
        """Refuse a call that should not wait: the sooner it knows, the less is lost."""
        if self.busy < self.worker_threads:
            return
        caller = sharer()
        if not self._places.fits(caller, 1):
            self._refuse(f"{self.busy} calls are computing or waiting", "QUEUE_FULL", self.wait)
        if not self._bytes.fits(caller, request_context.received.get()):
            text = f"requests of {self.held / (1 << 20):.1f} MiB are computing or waiting"
            self._refuse(text, "QUEUE_BYTES", self.wait)

    def _check_end(self, call: Call, *, new: bool) -> None:
        """Refuse a call that would wait too long, or end after its deadline; only what is `new` waits.

        One that has come to its turn too late leaves it to those that wait behind it.
        """
        own = call.remaining / self._speed()
        end = self.scheduler.end(call) if new else own
        wait, left = end - own, call.deadline - time.monotonic()
        if wait > max(self._settings.max_wait, PATIENCE * own):
            waiting = max(0, self.busy - self.worker_threads)
            self._refuse(f"{waiting} calls wait, some {wait:.1f} s of work", "QUEUE_LONG", wait)
        alone = wait <= 0 and (new or not self.scheduler.waiting)
        if MARGIN * end <= left or (alone and own <= DOUBT * left):
            return
        if own > left and new:
            text = f"it takes some {own:.1f} s by itself, and its deadline passes in {left:.1f} s"
            self._refuse(text, "DEADLINE", None)
        text = f"it would end after some {end:.1f} s, its deadline passes in {left:.1f} s"
        self._refuse(text, "DEADLINE", MARGIN * end - left)

    def _refuse(self, text: str, reason: str, wait: float | None) -> NoReturn:
        known = self._paces.known or self._calls.known
        delay = FIRST_RETRY if not known else None if wait is None else max(SOONEST_RETRY, wait)
        raise ResourceExhausted(text, reason=reason, retry_after=delay)


def worker_threads(settings: ServerSettings, *, on_gpu: bool) -> int:
    """The number of threads: `settings.lanes`, and more where they wait for a GPU, unless it is set."""
    chosen = "lanes" in settings.model_fields_set
    return max(settings.lanes, THREADS_ON_GPU) if on_gpu and not chosen else settings.lanes
