"""The order in which work gets the worker threads: who is begun, who goes on, and who gives way.

What has begun goes on before anything begins. Else the work that is expected to take the shortest goes first,
less a share of the time that it has waited, so that nothing waits for ever. Tenants share the threads by
their weights, whatever the number of their calls: who has had the least of it, as seconds of computation by
weight, is served first (start-time fair queueing: Goyal, Vin, Cheng 1996, which needs none of the rounds of
deficit round robin).

Long work gives way where a pass of the network begins: its thread runs what is shorter right there, on top of
it, and then goes on.
"""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

AGEING: Final = 0.1
"""Seconds of expected computation that a second of waiting makes up for; less than 1, so that of works that
take as long, none interrupts another."""
OVERDUE: Final = 0.1
"""Work that has taken longer than expected is expected to take this share of what it has taken yet."""
QUANTUM: Final = 0.1
"""Seconds of computation by which a tenant may be ahead of another before its work has to wait for it."""
DEEPEST: Final = 4
"""The number of works that may lie on top of each other in one thread; each holds its pictures."""
REMEMBERED: Final = 10_000
"""The number of tenants of whom it is known how much they have had."""


class Work(ABC):
    """A piece of work for the worker threads, taken step by step.

    Args:
        tenant: whose it is.

    Attributes:
        expected: seconds that it is expected to take in all; None before anybody has looked at it, which its
            first step does, at once.
        done: seconds that it has taken.
        since: when it would have been added if it had waited ever since; it moves on while the work runs.
        begun: whether a thread has taken a step of it that counts.
        again: whether the step that was taken last did not count, and is to be taken when its turn comes.
    """

    def __init__(self, tenant: str = "") -> None:
        self.tenant = tenant
        self.expected: float | None = 0.0
        self.done = 0.0
        self.since = 0.0
        self.begun = False
        self.again = False

    @abstractmethod
    def step(self) -> None:
        """Take the next step; may not raise."""

    @abstractmethod
    def settle(self) -> bool:
        """Hand on what the last step came to, once its time has been counted; may not raise.

        Returns:
            Whether there is more to do now; if not, it has ended, or rests until it is added again.
        """

    @property
    def remaining(self) -> float:
        """Seconds that it is expected to take yet."""
        return max((self.expected or 0.0) - self.done, OVERDUE * self.done)

    @property
    def place(self) -> float:
        """The smaller it is, the sooner the work should run; while it waits it stays, as all ages alike."""
        return -math.inf if self.expected is None else self.remaining + AGEING * self.since


class Line:
    """Works that wait, in the order of their places, which are noted as each call that comes sums them up."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self._places: list[float] = []
        self._remaining: list[float] = []

    def add(self, work: Work) -> None:
        """Put it behind those of the same place."""
        place = work.place
        index = bisect_right(self._places, place)
        self.works.insert(index, work)
        self._places.insert(index, place)
        self._remaining.insert(index, work.remaining)

    def remove(self, work: Work) -> None:
        """Take a work out of the line of its tenant."""
        index = self.works.index(work)
        del self.works[index], self._places[index], self._remaining[index]

    def remaining(self, place: float = math.inf) -> float:
        """Seconds that the works are expected to take yet, up to a place."""
        return sum(self._remaining[: bisect_right(self._places, place)])


EMPTY: Final = Line()


@dataclass(eq=False)
class Lane:
    """A worker thread: the works that lie on top of each other, and when the uppermost was charged last."""

    stack: list[Work] = field(default_factory=list)
    charged: float = 0.0


class Scheduler:
    """Worker threads that take work in the order above; they start when they are needed.

    Args:
        lanes: the number of threads.
        weights: the shares of tenants; 1 for all others.
        clock: tells the time in seconds.
        speed: tells by how much faster the passes of a lane are now than those that seconds are counted in.
    """

    def __init__(
        self,
        lanes: int,
        weights: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
        speed: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.lanes = lanes
        self._weights, self._clock, self._speed = weights or {}, clock, speed
        self._lines: dict[tuple[str, bool], Line] = {}
        """What waits, by its tenant and whether it was begun; none of them is empty."""
        self._waiting = 0
        self._running: list[Lane] = []
        self._had: dict[str, float] = {}
        self._least = 0.0
        self._changed = threading.Condition()
        self._mine = threading.local()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    def add(self, work: Work) -> None:
        """Have a thread take the work. Raises RuntimeError after `close`."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the scheduler is closed")
            self._queue(work, self._clock())
            if self._waiting > self._idle and len(self._threads) < self.lanes:
                name = f"worker_{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._serve, name=name, daemon=True))
                self._threads[-1].start()

    def remove(self, work: Work) -> bool:
        """Take the work out of the queue; False if it is not there, but runs, rests or has ended."""
        with self._changed:
            waits = work in self._line(work).works
            if waits:
                self._take(work)
            return waits

    def give_way(self, work: Work) -> float:
        """Run what is shorter than `work`, whose thread this is; gives the seconds that it took.

        The caller may hold no lock that other work might need.
        """
        lane: Lane | None = getattr(self._mine, "lane", None)
        if not self._waiting or lane is None or not lane.stack or lane.stack[-1] is not work:
            return 0.0
        began = self._clock()
        while len(lane.stack) < DEEPEST:
            with self._changed:
                self._charge(lane)
                other = self._next(shorter_than=work)
            if other is None:
                break
            self._turn(lane, other)
        return self._clock() - began

    def is_first(self, work: Work) -> bool:
        """Whether the work, which runs, may go on, as nothing beneath it or in the queue is shorter."""
        lane: Lane = self._mine.lane
        with self._changed:
            self._charge(lane)
            others = [*self._heads(), *lane.stack[:-1]]
            return not any(self._goes_before(other, work) for other in others)

    def end(self, work: Work) -> float:
        """Seconds until the work, which runs or would come now, has ended, as far as anybody can tell.

        Its own tenant's work that goes before it, its own, and what other tenants may have meanwhile.
        """
        with self._changed:
            for lane in self._running:
                self._charge(lane)
            ahead: dict[str, float] = defaultdict(float)
            place = work.place
            for (tenant, _), line in self._lines.items():
                ahead[tenant] += line.remaining(place if tenant == work.tenant else math.inf)
            for other in self._on_lanes():
                if other is not work and (other.tenant != work.tenant or other.place <= place):
                    ahead[other.tenant] += other.remaining
            mine = ahead.pop(work.tenant, 0.0) + work.remaining
            equal = mine / self._weight(work.tenant) + self._had.get(work.tenant, 0.0)
            others = sum(
                min(seconds, max(0.0, equal - self._had[tenant]) * self._weight(tenant))
                for tenant, seconds in ahead.items()
            )
            return ((mine - work.remaining + others) / self.lanes + work.remaining) / self._speed()

    @property
    def waiting(self) -> int:
        """The number of works that wait."""
        return self._waiting

    @property
    def backlog(self) -> float:
        """Seconds of computation that all works which wait are expected to take yet."""
        with self._changed:
            return sum(line.remaining() for line in self._lines.values()) / self._speed()

    def waits_for_others(self, tenant: str) -> bool:
        """Whether work of this tenant waits while a thread works for another one."""
        with self._changed:
            waits = any(who == tenant for who, _ in self._lines)
            return waits and any(lane.stack and lane.stack[-1].tenant != tenant for lane in self._running)

    def close(self) -> list[Work]:
        """Let what runs finish, and give back what waited."""
        with self._changed:
            self._closed = True
            dropped = [work for line in self._lines.values() for work in line.works]
            self._lines, self._waiting = {}, 0
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        return dropped

    def _serve(self) -> None:
        lane = self._mine.lane = Lane()
        with self._changed:
            self._running.append(lane)
        while True:
            with self._changed:
                self._idle += 1
                while (work := self._next()) is None and not self._closed:
                    self._changed.wait()
                self._idle -= 1
            if work is None:
                return
            self._turn(lane, work)
            del work  # A thread that waits holds nothing of it.

    def _turn(self, lane: Lane, work: Work) -> None:
        """Take steps of the work until it ends, rests, or has to wait for what lies beneath it."""
        with self._changed:
            self._charge(lane)
            lane.stack.append(work)
        going = True
        while going:
            work.step()
            with self._changed:
                self._charge(lane)
                work.begun = not work.again
            going = work.settle()
            with self._changed:
                waits = work.again or any(self._goes_before(each, work) for each in lane.stack[:-1])
                if going and waits:
                    work.again = going = False
                    self._queue(work, work.since)
                if not going:
                    lane.stack.pop()

    def _queue(self, work: Work, since: float) -> None:
        work.since = since
        if not any(who == work.tenant for who in self._active()):
            self._welcome(work.tenant)
        self._lines.setdefault((work.tenant, work.begun), Line()).add(work)
        self._waiting += 1
        self._changed.notify()

    def _welcome(self, tenant: str) -> None:
        """Who was away has not saved up for it: he begins with the least."""
        for lane in self._running:
            self._charge(lane)
        active = set(self._active())
        had = [self._had[each] for each in active]
        self._least = max(self._least, min(had) if had else max(self._had.values(), default=0.0))
        self._had[tenant] = max(self._had.pop(tenant, 0.0), self._least)
        if len(self._had) > REMEMBERED + len(active):
            del self._had[next(each for each in self._had if each not in active and each != tenant)]

    def _next(self, shorter_than: Work | None = None) -> Work | None:
        """Take the work out of the queue that is to run next, of those that go before another one."""
        fits = [
            work for work in self._heads() if shorter_than is None or self._goes_before(work, shorter_than)
        ]
        if not fits:
            return None
        least = min(self._had[work.tenant] for work in fits)

        def order(work: Work) -> tuple[bool, bool, float]:
            return self._had[work.tenant] > least + QUANTUM, not work.begun, work.place

        first = min(fits, key=order)
        self._take(first)
        return first

    def _goes_before(self, one: Work, other: Work) -> bool:
        """Whether one work is shorter, and its tenant has not had more than the other's."""
        if self._had[one.tenant] > self._had[other.tenant] + QUANTUM and one.tenant != other.tenant:
            return False
        return one.place < other.place

    def _line(self, work: Work) -> Line:
        return self._lines.get((work.tenant, work.begun), EMPTY)

    def _take(self, work: Work) -> None:
        line = self._line(work)
        line.remove(work)
        self._waiting -= 1
        if not line.works:
            del self._lines[work.tenant, work.begun]

    def _heads(self) -> Iterator[Work]:
        """Of each tenant's works that wait the first that was begun, and the first that was not."""
        return (line.works[0] for line in self._lines.values())

    def _on_lanes(self) -> Iterator[Work]:
        return (work for lane in self._running for work in lane.stack)

    def _active(self) -> Iterator[str]:
        """The tenants of what waits and of what runs; some come more than once."""
        yield from (tenant for tenant, _ in self._lines)
        yield from (work.tenant for work in self._on_lanes())

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)

    def _charge(self, lane: Lane) -> None:
        """Put the seconds since the last time down to the uppermost work, and to its tenant."""
        now = self._clock()
        seconds, lane.charged = now - lane.charged, now
        if lane.stack:
            work = lane.stack[-1]
            work.done += seconds * self._speed()
            work.since += seconds
            self._had[work.tenant] += seconds / self._weight(work.tenant)
