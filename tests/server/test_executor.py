"""Lanes: what runs, what waits, and what nobody waits for any more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from convlens.errors import Cancelled, ResourceExhausted
from convlens_server.cancellation import interruptible
from convlens_server.executor import Executor


@pytest.fixture
def executor() -> Iterator[Executor]:
    executor = Executor(lanes=1, max_waiting=2)
    yield executor
    executor.close()


class Busy:
    """Work that holds its lane until it is released."""

    def __init__(self) -> None:
        self.started, self.released = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.started.set()
        assert self.released.wait(10)
        return "done"


async def test_work_is_done_off_the_event_loop(executor: Executor) -> None:
    assert await executor.run(threading.get_ident) != threading.get_ident()
    assert await executor.run(max, [3, 1], default=7) == 3


async def test_an_error_reaches_the_caller(executor: Executor) -> None:
    with pytest.raises(ZeroDivisionError):
        await executor.run(divmod, 1, 0)
    assert executor.admitted == 0


async def test_queued_work_that_nobody_waits_for_is_not_run(executor: Executor) -> None:
    busy, ran = Busy(), []
    first = asyncio.create_task(executor.run(busy))
    await asyncio.to_thread(busy.started.wait, 10)
    second = asyncio.create_task(executor.run(ran.append, "second"))
    third = asyncio.create_task(executor.run(ran.append, "third"))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    busy.released.set()
    assert await first == "done"
    await third
    assert ran == ["third"]


async def test_too_many_calls_are_told_to_come_back(executor: Executor) -> None:
    busy = Busy()
    waiting = [asyncio.create_task(executor.run(busy)) for _ in range(3)]
    await asyncio.to_thread(busy.started.wait, 10)
    with pytest.raises(ResourceExhausted, match="3 calls") as raised:
        await executor.run(busy)
    assert raised.value.retry_after == 1
    with pytest.raises(ResourceExhausted):
        await anext(executor.stream(iter, [1]))
    busy.released.set()
    assert await asyncio.gather(*waiting) == ["done"] * 3
    assert await executor.run(int) == 0


async def test_running_work_is_interrupted_when_its_caller_leaves(executor: Executor) -> None:
    started, interrupted, after = threading.Event(), threading.Event(), []

    def passes() -> None:
        with interruptible(interrupted.set):
            started.set()
            assert interrupted.wait(10)
        with interruptible(lambda: None):  # The next pass of a network is not begun.
            after.append("second pass")

    call = asyncio.create_task(executor.run(passes))
    await asyncio.to_thread(started.wait, 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await executor.run(int)
    assert interrupted.is_set()
    assert after == []


async def test_a_pass_for_a_caller_that_stays_is_left_alone(executor: Executor) -> None:
    interrupts = []

    def work() -> str:
        with interruptible(lambda: interrupts.append(1)):
            return "done"

    assert await executor.run(work) == "done"
    assert interrupts == []
    assert work() == "done"  # Without any caller, as in a test or a script.


async def test_stream_computes_an_item_when_the_last_one_was_taken(executor: Executor) -> None:
    computed = []

    def items() -> Iterator[int]:
        for number in range(4):
            computed.append(number)
            yield number

    stream = executor.stream(items)
    assert await anext(stream) == 0
    time.sleep(0.02)
    assert computed == [0]
    assert [number async for number in stream] == [1, 2, 3]
    assert executor.admitted == 0


async def test_a_stream_that_is_left_stops_and_makes_room(executor: Executor) -> None:
    def items() -> Iterator[int]:
        while True:
            with interruptible(lambda: None):
                yield 1

    stream = executor.stream(items)
    assert await anext(stream) == 1
    await stream.aclose()
    assert executor.admitted == 0


def test_cancelled_is_what_a_left_caller_gets() -> None:
    from convlens_server.cancellation import Caller

    caller = Caller()
    caller.leave()
    with pytest.raises(Cancelled), caller.interrupting(lambda: None):
        pytest.fail("the pass was begun")
