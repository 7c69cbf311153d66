"""The worker threads: what runs, what waits, and what nobody waits for any more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest

from convlens.errors import Cancelled, ResourceExhausted
from convlens_server.request import request_context
from convlens_server.request.cancellation import interruptible
from convlens_server.serving.call import LEAST
from convlens_server.serving.executor import PATIENCE, Executor
from convlens_server.settings import ServerSettings


@pytest.fixture
def executor() -> Iterator[Executor]:
    executor = Executor(ServerSettings(lanes=1, max_waiting=2, redis=""))
    yield executor
    executor.close()


class Busy:
    """Work that holds its worker thread until it is released."""

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


class Large:
    """A part of a reply of so many bytes."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


@pytest.mark.parametrize(("megabytes", "ahead"), [(0, 1), (1, 3), (4, 9)])
async def test_a_stream_is_computed_ahead_of_its_reader_as_far_as_bytes_go(
    megabytes: int, ahead: int
) -> None:
    executor = Executor(ServerSettings(lanes=1, stream_ahead_megabytes=megabytes, redis=""))
    computed, half = [], Large((1 << 19) - LEAST)

    def items() -> Iterator[Large]:
        for number in range(20):
            computed.append(number)
            yield half

    stream = executor.stream(items)
    assert await anext(stream) is half
    await executor.run(int)  # The one thread has done what there was to do.
    assert len(computed) == max(1, ahead - 1)
    assert await anext(stream) is half  # The first one is gone, and leaves room.
    await executor.run(int)
    assert len(computed) == max(2, ahead)
    assert len([item async for item in stream]) == 18
    assert executor.admitted == executor.busy == 0
    executor.close()


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
    from convlens_server.request.cancellation import Caller

    caller = Caller()
    caller.leave()
    with pytest.raises(Cancelled), caller.interrupting(lambda: None):
        pytest.fail("the pass was begun")


class Context:
    """Of a call with so many seconds left."""

    def __init__(self, left: float | None) -> None:
        self._left = left

    def time_remaining(self) -> float | None:
        return self._left


def calling(method: str, left: float | None = None) -> None:
    """What this task does from now on is that call."""
    request_context.current.set(
        request_context.RequestContext(method, cast("request_context.ServicerContext", Context(left)))
    )


async def test_a_refused_call_is_told_how_long_the_queue_is(executor: Executor) -> None:
    await executor.run(time.sleep, 0.2)
    busy = Busy()
    waiting = [asyncio.create_task(executor.run(busy)) for _ in range(3)]
    await asyncio.to_thread(busy.started.wait, 10)
    with pytest.raises(ResourceExhausted) as raised:
        await executor.run(int)
    assert raised.value.reason == "QUEUE_FULL"
    assert raised.value.retry_after == pytest.approx(2 * 0.2, rel=0.3)
    busy.released.set()
    await asyncio.gather(*waiting)


async def test_a_queue_is_long_by_the_time_that_its_calls_take() -> None:
    executor, busy = Executor(ServerSettings(lanes=1, max_waiting=100, max_wait=0.5, redis="")), Busy()
    calling("slow")
    await executor.run(time.sleep, 0.3)
    calling("quick")
    await executor.run(time.sleep, 0)
    quick = [asyncio.create_task(executor.run(busy)) for _ in range(20)]
    await asyncio.to_thread(busy.started.wait, 10)
    assert executor.wait < 0.1
    calling("slow")
    slow = [asyncio.create_task(executor.run(busy)) for _ in range(8)]
    await asyncio.sleep(0)
    assert executor.wait == pytest.approx(PATIENCE * 0.3, abs=0.4)  # Longer, for who takes long himself.
    calling("quick")
    assert executor.wait > 1
    quick.append(asyncio.create_task(executor.run(busy)))  # It goes before all slow ones.
    busy.released.set()
    await asyncio.gather(*quick)
    outcomes = await asyncio.gather(*slow, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, ResourceExhausted)]
    assert outcomes == ["done"] * (8 - len(refused)) + refused
    assert {error.reason for error in refused} == {"QUEUE_LONG"}
    assert all("calls wait, some 1." in error.message and error.retry_after for error in refused)
    assert len(refused) in (2, 3)
    assert executor.wait == 0
    executor.close()


async def test_what_would_come_too_late_is_not_computed(executor: Executor) -> None:
    calling("slow")
    await executor.run(time.sleep, 0.2)
    busy, ran = Busy(), []
    waiting = [asyncio.create_task(executor.run(busy)) for _ in range(2)]
    await asyncio.to_thread(busy.started.wait, 10)
    calling("slow", left=0.1)
    with pytest.raises(ResourceExhausted, match=r"its deadline passes in 0.1 s") as raised:
        await executor.run(ran.append, "late")
    assert raised.value.reason == "DEADLINE"
    calling("slow", left=10)
    waiting.append(asyncio.create_task(executor.run(busy)))
    busy.released.set()
    assert await asyncio.gather(*waiting) == ["done"] * 3
    assert ran == []


async def test_large_requests_wait_only_as_far_as_memory_goes() -> None:
    # Not validated, so that the bound may be a fraction of a MiB.
    settings = ServerSettings.model_construct(lanes=1, max_waiting_megabytes=1000 / 2**20)
    executor, busy = Executor(settings), Busy()
    request_context.received.set(5000)
    assert await executor.run(int) == 0  # It need not wait.
    request_context.received.set(400)
    waiting = [asyncio.create_task(executor.run(busy)) for _ in range(2)]
    await asyncio.to_thread(busy.started.wait, 10)
    assert executor.held == 800
    with pytest.raises(ResourceExhausted, match="requests of") as raised:
        await executor.run(int)
    assert raised.value.reason == "QUEUE_BYTES"
    assert raised.value.retry_after
    request_context.received.set(200)
    waiting.append(asyncio.create_task(executor.run(busy)))
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.gather(waiting[1], return_exceptions=True)
    assert executor.held == 600
    busy.released.set()
    await asyncio.gather(waiting[0], waiting[2])
    assert executor.held == 0
    executor.close()


async def test_a_stream_whose_reader_rests_holds_nobody() -> None:
    settings = ServerSettings(lanes=1, max_waiting=0, max_streams=2, stream_ahead_megabytes=0, redis="")
    executor = Executor(settings)
    resting = [executor.stream(iter, [1, 2]) for _ in range(2)]
    assert [await anext(stream) for stream in resting] == [1, 1]
    assert (executor.admitted, executor.busy) == (2, 0)
    assert await executor.run(max, 3, 1) == 3
    with pytest.raises(ResourceExhausted, match="2 streams are open") as raised:
        await anext(executor.stream(iter, [1]))
    assert raised.value.reason == "STREAMS"
    assert raised.value.retry_after
    assert [[item async for item in stream] for stream in resting] == [[2], [2]]
    assert [item async for item in executor.stream(iter, [7])] == [7]
    executor.close()
