"""Twice the load that a server can bear: it does as much as before, says no at once, and holds no more.

Where passes take a fixed time, the lanes are the bottleneck, and not the CPUs, which the clients and the
parsing of what is refused share with them: as long as a call waits, no lane may rest.
"""

from __future__ import annotations

import asyncio

import pytest
from benchmarks import overload_server
from support.front_end import FrontEnd
from support.load import constant_rate, sustained

MAX_WAIT = 0.5
FIXED = (overload_server.__file__,)
"""The program whose passes take a fixed time."""


async def memory(front_end: FrontEnd, every: float, into: list[int]) -> None:
    """MiB that it holds, again and again."""
    while True:
        into.append(front_end.memory() >> 20)
        await asyncio.sleep(every)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("program", "measured", "seconds"),
    [(FIXED, 1, 5), pytest.param((), 10, 120, marks=pytest.mark.slow)],
)
async def test_twice_the_sustainable_load(program: tuple[str, ...], measured: float, seconds: float) -> None:
    with FrontEnd(*program, redis="", lanes=2, threads=2, max_wait=MAX_WAIT) as front_end:
        await sustained(front_end.address, 4, 0.5)
        peak, held = await sustained(front_end.address, 8, measured), []
        watching = asyncio.create_task(memory(front_end, seconds / 60, held))
        seen = await constant_rate(front_end.address, 2 * peak, seconds)
        watching.cancel()
        again = await sustained(front_end.address, 8, measured)
    got = len(seen.seconds) / seconds
    half = len(held) // 2
    early, late = max(held[:half]), max(held[half:])
    print(f"peak {peak:.0f}/s, offered {2 * peak:.0f}/s: {got:.0f}/s answered, {len(seen.refused)} refused")
    print(f"p50 {seen.latency(50):.2f} s, p99 {seen.latency(99):.2f} s; then {again:.0f}/s")
    print(f"told to come back after {min(seen.refused):.2f} to {max(seen.refused):.2f} s")
    print(f"at most {early} MiB in the first half, {late} MiB in the second")
    assert not seen.others
    assert got > 0.75 * min(peak, again)
    assert seen.refused
    assert all(delay is not None and 0 < delay < 4 * MAX_WAIT for delay in seen.refused)
    assert seen.latency(99) < 8 * MAX_WAIT
    assert late < 1.05 * early + 8
