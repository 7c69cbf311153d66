"""The worker threads: what runs, what waits, and what nobody waits for any more."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any, cast

import pytest

from convlens.errors import ResourceExhausted
from convlens_server.identity.principal import Principal, current
from convlens_server.request import request_context
from convlens_server.request.cancellation import interruptible
from convlens_server.serving.call import LEAST, expect
from convlens_server.serving.executor import PACE, PATIENCE, Executor
from convlens_server.serving.scheduler import QUANTUM
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


async def test_a_call_that_turns_out_to_be_long_begins_anew_when_its_turn_comes(executor: Executor) -> None:
    calling("costly")
    log, busy = list[str](), Busy()

    def costly(name: str, units: float) -> str:
        log.append(f"{name} begins")
        expect("network", units)
        log.append(name)
        return name

    await executor.run(costly, "first", 1e6)
    gate = asyncio.create_task(executor.run(busy))
    await asyncio.to_thread(busy.started.wait, 10)
    executor._places.total = 4  # Room for three.
    works = [("long", 1e9), ("middle", 1e8), ("short", 1e7)]
    calls = [asyncio.create_task(executor.run(costly, *work)) for work in works]
    await asyncio.sleep(0)
    busy.released.set()
    assert await asyncio.gather(*calls) == [name for name, _ in works]
    await gate
    begun = ["long begins", "middle begins", "short begins"]
    assert log[2:] == [*begun, "short", begun[1], "middle", begun[0], "long"]


async def test_a_tenant_leaves_as_many_places_and_bytes_as_it_has() -> None:
    settings = ServerSettings(lanes=1, max_waiting=7, max_waiting_megabytes=8, redis="")
    executor, busy = Executor(settings), Busy()
    gate = asyncio.create_task(executor.run(busy))
    await asyncio.to_thread(busy.started.wait, 10)
    waiting = []

    async def ask(tenant: str, megabytes: int) -> str:
        current.set(Principal(tenant, tenant))
        request_context.received.set(megabytes << 20)
        try:
            return await executor.run(str, tenant)
        except ResourceExhausted as error:
            return error.reason

    for tenant, megabytes in [("red", 1)] * 6 + [("blue", 5), ("blue", 1), ("blue", 4), ("green", 0)]:
        waiting.append(asyncio.create_task(ask(tenant, megabytes)))
        await asyncio.sleep(0)
    busy.released.set()
    await gate
    red = ["red"] * 3 + ["QUEUE_FULL"] * 3
    assert await asyncio.gather(*waiting) == [*red, "QUEUE_BYTES", "blue", "QUEUE_BYTES", "green"]
    executor.close()


async def test_nothing_holds_a_request_once_its_call_has_ended(executor: Executor) -> None:
    class Request:
        """Something that counts its references."""

    gc.collect()
    gc.disable()
    try:
        request = Request()
        gone = weakref.ref(request)
        await executor.run(lambda request: None, request)
        assert [item async for item in executor.stream(lambda request: iter([1]), request)] == [1]
        del request
        await executor.run(int)
        assert gone() is None
    finally:
        gc.enable()


async def test_a_call_is_begun_only_if_it_can_end_before_its_deadline(executor: Executor) -> None:
    def costly(seconds: float) -> str:
        expect("network", seconds / PACE)
        time.sleep(seconds)
        return "done"

    calling("costly")
    for _ in range(6):
        await executor.run(costly, 0.05)
    calling("costly", left=0.1)
    with pytest.raises(ResourceExhausted, match=r"takes some .* s by itself") as raised:
        await executor.run(costly, 1.0)
    assert (raised.value.reason, raised.value.retry_after) == ("DEADLINE", None)
    assert await executor.run(costly, 0.02) == "done"
    busy = Busy()
    calling("slow")
    await executor.run(time.sleep, 0.3)
    gate = asyncio.create_task(executor.run(busy))
    await asyncio.to_thread(busy.started.wait, 10)
    waiting = asyncio.create_task(executor.run(time.sleep, 0.0))  # Expected to take 0.3 s.
    await asyncio.sleep(0)
    calling("slow", left=0.4)
    with pytest.raises(ResourceExhausted, match=r"it would end after some [01]\.\d s") as raised:
        await executor.run(int)
    assert raised.value.reason == "DEADLINE"
    assert raised.value.retry_after == pytest.approx(1.1 * 0.9 - 0.4, abs=0.5)
    busy.released.set()
    await asyncio.gather(gate, waiting)


async def test_a_tenant_with_many_calls_takes_its_share_and_no_more(executor: Executor) -> None:
    executor._places.total = 257
    order, busy = list[str](), Busy()

    def of(tenant: str, work: Callable[..., Any], *args: Any) -> asyncio.Task[Any]:
        context = copy_context()
        context.run(current.set, Principal(tenant, tenant))
        return asyncio.create_task(executor.run(work, *args), context=context)

    def work(tenant: str) -> None:
        order.append(tenant)
        time.sleep(2 * QUANTUM)

    gate = of("many", busy)
    await asyncio.to_thread(busy.started.wait, 10)
    calls = [of("many", work, "many") for _ in range(5)] + [of("few", work, "few") for _ in range(2)]
    await asyncio.sleep(2 * QUANTUM)
    busy.released.set()
    await asyncio.gather(gate, *calls)
    assert order[:4] == ["few", "many", "few", "many"]


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
    before = executor.wait
    assert before < 0.3
    calling("slow")
    slow = [asyncio.create_task(executor.run(busy)) for _ in range(8)]
    await asyncio.sleep(0)
    assert executor.wait - before == pytest.approx(
        PATIENCE * 0.3, abs=0.4
    )  # Longer, for who takes long himself.
    calling("quick")
    assert executor.wait > 1
    quick.append(asyncio.create_task(executor.run(busy)))  # It goes before all slow ones.
    busy.released.set()
    await asyncio.gather(*quick)
    outcomes = await asyncio.gather(*slow, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, ResourceExhausted)]
    assert outcomes == ["done"] * (8 - len(refused)) + refused
    assert {error.reason for error in refused} == {"QUEUE_LONG"}
    assert all("calls wait, some " in error.message and error.retry_after for error in refused)
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


async def test_what_was_found_to_cost_a_little_more_does_not_let_its_equals_by(executor: Executor) -> None:
    calling("costly")
    log, busy = list[str](), Busy()

    def costly(name: str, units: float) -> None:
        expect("network", units)
        log.append(name)
        with interruptible(lambda: None):  # Here shorter work would run on top of it.
            time.sleep(0.02)
        log.append(name)

    for _ in range(3):
        await executor.run(costly, "before", 6e8)
    gate = asyncio.create_task(executor.run(busy))
    await asyncio.to_thread(busy.started.wait, 10)
    executor._places.total = 257
    log.clear()
    calls = [asyncio.create_task(executor.run(costly, name, 1.5 * 6e8)) for name in "abc"]
    await asyncio.sleep(0)
    busy.released.set()
    await asyncio.gather(gate, *calls)
    assert "".join(log) == "aabbcc"
