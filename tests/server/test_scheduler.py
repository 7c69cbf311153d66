"""Who is next in the worker threads: by remaining work, age, and what tenants have had; and who gives way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import pytest

from convlens_server.serving.scheduler import AGEING, DEEPEST, QUANTUM, Scheduler, Work

SOON: Final = 20.0
"""Seconds after which a test gives up."""


class Clock:
    """Time that passes when it is told to; `moment` is read by the scheduler under its own lock."""

    def __init__(self) -> None:
        self.moment = 100.0

    def __call__(self) -> float:
        return self.moment


class Passes(Work):
    """Work of several passes of a second each, before each of which it gives way, as techniques do."""

    def __init__(self, plane: Plane, name: str, passes: int, tenant: str = "", unknown: bool = False) -> None:
        super().__init__(tenant)
        self.plane, self.name, self.passes = plane, name, passes
        self.expected = None if unknown else float(passes)
        self.over = threading.Event()

    def step(self) -> None:
        if self.expected is None:  # Somebody has looked at it now.
            self.expected = float(self.passes)
            self.again = not self.plane.scheduler.is_first(self)
            self.plane.log.append(f"seen {self.name}")
            if self.again:
                return
        for number in range(self.passes):
            self.plane.before(self.name, number)
            self.plane.scheduler.give_way(self)
            self.plane.log.append(self.name)
            self.plane.clock.moment += 1

    def settle(self) -> bool:
        if not self.again:
            self.over.set()
        return self.again


class Plane:
    """A scheduler with a log of passes, and hooks that run before them, in the thread that makes them."""

    def __init__(self, lanes: int = 1, **settings: object) -> None:
        self.clock, self.log = Clock(), list[str]()
        self.scheduler = Scheduler(lanes, clock=self.clock, **settings)  # type: ignore[arg-type]
        self.hooks: dict[tuple[str, int], Callable[[], object]] = {}

    def before(self, name: str, number: int) -> None:
        self.hooks.pop((name, number), lambda: None)()

    def add(self, *works: Passes) -> None:
        for work in works:
            self.scheduler.add(work)

    def run(self, works: Sequence[Passes]) -> list[str]:
        """The log once all of them are over; all are added before the first begins."""
        first = Passes(self, "gate", 1)
        self.hooks["gate", 0] = lambda: self.add(*works)
        self.add(first)
        for work in works:
            assert work.over.wait(SOON)
        return [name for name in self.log if name != "gate"]


@pytest.fixture
def plane() -> Iterator[Plane]:
    plane = Plane()
    yield plane
    plane.scheduler.close()


def test_the_shortest_goes_first_and_equals_in_turn(plane: Plane) -> None:
    works = [Passes(plane, name, passes) for name, passes in (("a", 3), ("b", 1), ("c", 2), ("d", 1))]
    assert "".join(plane.run(works)) == "bdccaaa"


def test_long_work_gives_way_between_passes_and_goes_on(plane: Plane) -> None:
    long, short, longer = Passes(plane, "L", 5), Passes(plane, "s", 2), Passes(plane, "X", 9)
    plane.hooks["L", 2] = lambda: plane.add(short, longer)
    plane.add(long)
    assert longer.over.wait(SOON)
    assert "".join(plane.log) == "LLssLLLXXXXXXXXX"
    assert long.done == 5
    assert short.done == 2


def test_work_of_the_same_length_does_not_interrupt(plane: Plane) -> None:
    first, second = Passes(plane, "a", 4), Passes(plane, "b", 4)
    plane.hooks["a", 1] = lambda: plane.add(second)
    plane.add(first)
    assert second.over.wait(SOON)
    assert "".join(plane.log) == "aaaabbbb"


def test_what_has_waited_long_enough_goes_before_what_is_short(plane: Plane) -> None:
    """A flood of works of 1 s holds one of 4 s back until its age makes up for 3 s."""
    long, flood = Passes(plane, "L", 4), [Passes(plane, "s", 1) for _ in range(60)]

    def more() -> None:  # There is always one short work waiting, which has just come.
        if flood:
            work = flood.pop()
            plane.hooks["s", 0] = more
            plane.add(work)

    plane.hooks["s", 0] = more
    plane.run([long, Passes(plane, "s", 1)])
    before = plane.log.index("L") - 1
    assert 3 / AGEING - 2 <= before <= 3 / AGEING + 2
    assert long.over.wait(SOON)


def test_works_lie_on_top_of_each_other_only_so_deep(plane: Plane) -> None:
    works = [Passes(plane, str(9 - depth), 20 - 2 * depth) for depth in range(DEEPEST + 2)]
    for one, other in pairwise(works):
        plane.hooks[one.name, 1] = lambda other=other: plane.add(other)
    plane.add(works[0])
    deepest = works[DEEPEST]
    assert deepest.over.wait(SOON)
    assert all(work.over.wait(SOON) for work in works)
    log = plane.log
    for one, other in pairwise(works[:DEEPEST]):
        assert log.index(other.name) < len(log) - 1 - log[::-1].index(one.name)  # It was interrupted.
    last = works[DEEPEST - 1].name
    assert log.index(deepest.name) > len(log) - 1 - log[::-1].index(last)  # It was not.


def test_tenants_share_by_weight_whatever_the_number_of_their_works() -> None:
    plane = Plane(weights={"heavy": 3})
    many = [Passes(plane, "m", 1, "many") for _ in range(300)]
    few = [Passes(plane, "f", 1, "few") for _ in range(60)]
    heavy = [Passes(plane, "h", 1, "heavy") for _ in range(120)]
    log = plane.run([*many, *few, *heavy])[:100]
    shares = [log.count(name) / len(log) for name in "mfh"]
    assert shares == pytest.approx([0.2, 0.2, 0.6], abs=0.03)
    plane.scheduler.close()


def test_a_tenant_that_was_away_has_not_saved_up(plane: Plane) -> None:
    early = [Passes(plane, "a", 1, "a") for _ in range(50)]
    assert len(plane.run(early)) == 50
    plane.log.clear()
    a, b = [[Passes(plane, name, 1, name) for _ in range(20)] for name in "ab"]
    log = plane.run([*a, *b])[:20]
    assert log.count("b") == pytest.approx(10, abs=2)


def test_nobody_gives_way_to_a_tenant_that_has_had_more(plane: Plane) -> None:
    before, long, late = (
        Passes(plane, "o", 4, "other"),
        Passes(plane, "L", 8, "one"),
        Passes(plane, "s", 1, "other"),
    )
    plane.hooks["o", 0] = lambda: plane.add(long)
    plane.hooks["L", 1] = lambda: plane.add(late)
    plane.add(before)
    assert long.over.wait(SOON)
    assert "".join(plane.log) == "ooooLLLLsLLLL"
    assert QUANTUM < 1


def test_what_nobody_has_looked_at_is_looked_at_at_once_and_then_waits(plane: Plane) -> None:
    long = Passes(plane, "L", 3)
    unknown, short = Passes(plane, "U", 8, unknown=True), Passes(plane, "s", 1, unknown=True)
    plane.hooks["L", 1] = lambda: plane.add(unknown, short)
    plane.add(long)
    assert unknown.over.wait(SOON)
    assert " ".join(plane.log) == "L seen U seen s s L L U U U U U U U U"


def test_the_end_is_told_before_it_comes() -> None:
    plane = Plane(lanes=2, speed=lambda: 0.5)
    gates = [Passes(plane, "gate", 1) for _ in range(2)]
    told: list[float] = []
    ready = threading.Barrier(3)

    def look() -> None:
        ready.wait(SOON)
        ready.wait(SOON)

    plane.before = lambda name, number: look() if name == "gate" else None  # type: ignore[method-assign]
    plane.add(*gates)
    ready.wait(SOON)
    waiting = [Passes(plane, "w", passes) for passes in (2, 4, 8)]
    plane.add(*waiting)
    for passes in (1, 3, 9):
        new = Passes(plane, "n", passes)
        new.since = plane.clock()
        told.append(plane.scheduler.end(new))
    other = Passes(plane, "n", 3, "other")
    other.since = plane.clock()
    told.append(plane.scheduler.end(other))
    assert plane.scheduler.backlog == 14 / 0.5
    ready.wait(SOON)
    # Ahead are what runs (1 and 1) and what is as short or shorter, on two lanes; of another tenant, as much
    # as its equal share.
    wanted = [2 / 2 + 1, 4 / 2 + 3, 16 / 2 + 9, 3 / 2 + 3]
    assert told == pytest.approx([seconds / 0.5 for seconds in wanted])
    assert all(work.over.wait(SOON) for work in waiting)
    plane.scheduler.close()


def test_what_was_removed_does_not_run_and_close_gives_the_rest_back() -> None:
    plane = Plane()
    gate, kept, gone = (Passes(plane, name, 1) for name in ("gate", "kept", "gone"))
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert release.wait(SOON)

    plane.hooks["gate", 0] = hold
    plane.add(gate, kept, gone)
    assert held.wait(SOON)
    assert plane.scheduler.remove(gone)
    assert not plane.scheduler.remove(gone)
    assert not plane.scheduler.remove(gate)
    dropped: list[Work] = []
    closing = threading.Thread(target=lambda: dropped.extend(plane.scheduler.close()))
    closing.start()
    until = time.monotonic() + SOON
    while not plane.scheduler._closed and time.monotonic() < until:
        time.sleep(0.001)
    release.set()
    closing.join(SOON)
    assert dropped == [kept]
    with pytest.raises(RuntimeError):
        plane.add(Passes(plane, "late", 1))
    assert gate.over.is_set()
    assert plane.log == ["gate"]


def test_every_lane_is_used_and_starts_when_it_is_needed() -> None:
    plane = Plane(lanes=3)
    together = threading.Barrier(4)
    plane.before = lambda *_: together.wait(SOON)  # type: ignore[method-assign]
    assert not plane.scheduler._threads
    works = [Passes(plane, str(number), 1) for number in range(3)]
    plane.add(*works)
    together.wait(SOON)  # All three have come this far at once.
    assert all(work.over.wait(SOON) for work in works)
    assert len(plane.scheduler._threads) == 3
    plane.scheduler.close()
