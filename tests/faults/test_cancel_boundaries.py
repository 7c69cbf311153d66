"""Cancel at every boundary of a job's states: whatever wins, there is one end, the same for all."""

from __future__ import annotations

import asyncio
import random

from support.faults import still_works, submit
from support.job_plane import dream
from support.worker_process import WorkerProcess

from convlens.v1 import job_pb2
from convlens_workers.jobs import JobStore

RUNNING, SUCCEEDED, FAILED, CANCELLED = range(2, 6)
TERMINAL = {SUCCEEDED, FAILED, CANCELLED}


async def history(store: JobStore, name: str) -> list[job_pb2.JobMetadata]:
    """What a watcher sees who comes at once."""
    return [metadata async for _, metadata, _ in store.watch(name)]


async def test_cancels_spread_over_the_life_of_jobs(shared: JobStore, worker: WorkerProcess) -> None:
    """Forty short jobs, each cancelled at another moment: waiting, claimed, running, finishing, finished."""
    rng = random.Random(0)
    ends = set()
    for number in range(40):
        ahead = await submit(shared, dream(2000)) if number % 10 == 0 else ""  # Behind it the job waits.
        name = await submit(shared, dream(3, seed=number))
        watching = asyncio.create_task(history(shared, name))
        await asyncio.sleep(rng.choice((0.0, 0.005, 0.02, 0.05, 0.1, 0.2)))
        await asyncio.gather(*(shared.cancel(name) for _ in range(3)))
        seen = await asyncio.wait_for(watching, 10)
        states = [metadata.state for metadata in seen]
        assert [state for state in states if state in TERMINAL] == states[-1:], states
        ended = await shared.get(name)
        await shared.cancel(name)
        assert (await shared.get(name)).metadata.state == ended.metadata.state == states[-1]
        assert (ended.result is not None) == (states[-1] == SUCCEEDED)
        assert (states[-1] == CANCELLED) or not any(metadata.cancel_requested for metadata in seen)
        ends.add((states[-1], RUNNING in states))
        if ahead:
            await shared.cancel(ahead)
            await shared.wait(ahead, 10)
    assert {(CANCELLED, False), (SUCCEEDED, True)} <= ends, "the cancels did not reach all boundaries"
    assert await still_works(shared)


async def test_a_cancel_between_two_attempts(shared: JobStore, worker: WorkerProcess) -> None:
    """The device process is dead and the job is on its way back to the queue."""
    for _ in range(3):
        name = await submit(shared, dream(2000))
        watching = asyncio.create_task(history(shared, name))
        while (await shared.get(name)).metadata.state != RUNNING:
            await asyncio.sleep(0.005)
        worker.device_process().kill()
        await shared.cancel(name)
        states = [metadata.state for metadata in await asyncio.wait_for(watching, 10)]
        assert [state for state in states if state in TERMINAL] == [CANCELLED]
    assert await still_works(shared)
