"""Short calls among long ones, at loads up to twice what a server can bear: what ends in time, and how soon.

python -m benchmarks.overload [--before TREE] [--seconds 6]

Calls come at random moments, whatever becomes of those before: Classify of one picture, and RISE. Each has a
deadline. Beside the server stands a simulation of the same arrivals on perfect lanes: the shortest remaining
work first, interrupted at no cost, and nothing begun that cannot end in time. `--before` is a checkout of
another commit, which takes turns with this one. Passes of the network take a fixed time, so that figures are
of the order of calls and not of what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import numpy as np

from convlens import wire
from convlens.v1 import attribution_pb2, attribution_pb2_grpc, image_pb2, inspection_pb2, inspection_pb2_grpc

LANES: Final = 2
LOADS: Final = (0.5, 1.0, 2.0)
LONG_SHARES: Final = (0.0, 0.1, 0.5)
MASKS: Final = 30
PATIENCE: Final = 6.0
"""The deadline of a long call, as so many times what it takes alone; a short one has `SHORT_DEADLINE`."""
SHORT_DEADLINE: Final = 1.0
CONNECTIONS: Final = 8
"""Callers are many: a connection bounds its streams, also those that were given up and are not yet ended."""
PARTS: Final = ("protos", "models", "workers", "server", "clients")

PICTURE: Final = image_pb2.Image(
    tensor=wire.to_tensor(np.random.default_rng(0).random((3, 96, 96), np.float32))
)
SHORT: Final = inspection_pb2.ClassifyRequest(images=[PICTURE])


def long(**technique: Any) -> attribution_pb2.AttributeRequest:
    return attribution_pb2.AttributeRequest(
        images=[PICTURE], attributions=[attribution_pb2.Attribution(**technique)]
    )


RISE: Final = long(rise={"masks": MASKS})
ENDLESS: Final = long(rise={"masks": 20_000})
SMOOTHGRAD: Final = long(smoothgrad={"samples": 20})


class Arrival(NamedTuple):
    """A call: when it comes, the seconds of a lane that it takes, and those after which it is too late."""

    at: float
    takes: float
    deadline: float
    long: bool


class Server:
    """A server process of one checkout, and calls to it."""

    def __init__(self, address: str) -> None:
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(address, own) for _ in range(CONNECTIONS)]
        self.classify = cycle([inspection_pb2_grpc.InspectionServiceStub(it).Classify for it in channels])
        self.attribute = cycle([attribution_pb2_grpc.AttributionServiceStub(it).Attribute for it in channels])

    async def call(self, request: Any, timeout: float | None = None) -> tuple[str, float]:
        """The code that a call ended with, and its seconds."""
        began = time.perf_counter()
        try:
            if isinstance(request, inspection_pb2.ClassifyRequest):
                await next(self.classify)(request, timeout=timeout)
            else:
                async for _ in next(self.attribute)(request, timeout=timeout):
                    pass
        except grpc.RpcError as error:
            return error.code().name, time.perf_counter() - began
        return "OK", time.perf_counter() - began

    async def rate(self, request: Any, seconds: float) -> float:
        """Calls a second that as many clients as lanes, and two more, get answered."""
        until, done = time.perf_counter() + seconds, 0

        async def client() -> None:
            nonlocal done
            while time.perf_counter() < until:
                code, _ = await self.call(request)
                done += code == "OK"

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(LANES + 2)))
        return done / (time.perf_counter() - began)


@contextmanager
def running(tree: Path) -> Iterator[str]:
    """The address of a server of the code in a checkout."""
    settings = {
        "PYTHONPATH": os.pathsep.join(str(tree / part) for part in PARTS),
        "CONVLENS_LISTEN": "127.0.0.1:0",
        "CONVLENS_REDIS": "",
        "CONVLENS_LANES": str(LANES),
        "CONVLENS_THREADS": str(LANES),
        "CONVLENS_LOG_LEVEL": "ERROR",
    }
    command = [sys.executable, str(Path(__file__).with_name("overload_server.py"))]
    with subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None or not (line := process.stdout.readline()):
            raise RuntimeError(f"the server of {tree} did not start")
        try:
            yield line.split(" on ")[1].split(" ")[0]
        finally:
            process.terminate()


def arrivals(load: float, share: float, seconds: float, takes: Sequence[float]) -> list[Arrival]:
    """Calls at random moments, such that they take `load` times what the lanes can do."""
    short, long_ = takes
    rng = np.random.default_rng(int(100 * load + 10 * share))
    rate = load * LANES / (share * long_ + (1 - share) * short)
    found, at = [], 0.0
    while (at := at + rng.exponential(1 / rate)) < seconds:
        is_long = bool(rng.random() < share)
        deadline = PATIENCE * long_ if is_long else SHORT_DEADLINE
        found.append(Arrival(at, long_ if is_long else short, deadline, is_long))
    return found


def perfect(calls: Sequence[Arrival]) -> list[float | None]:
    """The seconds of each call on perfect lanes; None for those that cannot end in time."""
    seconds: list[float | None] = [None] * len(calls)
    waiting: list[tuple[float, int]] = []
    now, coming = 0.0, 0
    while coming < len(calls) or waiting:
        if not waiting:
            now = max(now, calls[coming].at)
        while coming < len(calls) and calls[coming].at <= now:
            heapq.heappush(waiting, (calls[coming].takes, coming))
            coming += 1
        lanes = [heapq.heappop(waiting) for _ in range(min(LANES, len(waiting)))]
        upcoming = calls[coming].at - now if coming < len(calls) else np.inf
        step = min(upcoming, *(left for left, _ in lanes)) if lanes else upcoming
        now += step
        for left, number in lanes:
            call = calls[number]
            if left <= step:
                seconds[number] = now - call.at
            else:
                heapq.heappush(waiting, (left - step, number))
        waiting = [
            (left, number)
            for left, number in waiting
            if now + left <= calls[number].at + calls[number].deadline
        ]
        heapq.heapify(waiting)
    return [
        taken if taken is not None and taken <= call.deadline else None
        for taken, call in zip(seconds, calls, strict=True)
    ]


async def offered(server: Server, calls: Sequence[Arrival]) -> list[tuple[str, float]]:
    """What becomes of calls that come at their moments."""
    began, tasks = time.perf_counter(), []
    for call in calls:
        await asyncio.sleep(max(0.0, began + call.at - time.perf_counter()))
        request = RISE if call.long else SHORT
        tasks.append(asyncio.create_task(server.call(request, call.deadline)))
    return await asyncio.gather(*tasks)


def cell(calls: Sequence[Arrival], took: Sequence[float | None], seconds: float) -> str:
    """Calls that ended in time, a second, and p50 and p99 of the short ones among them."""
    short = [one for one, call in zip(took, calls, strict=True) if one is not None and not call.long]
    p50, p99 = np.percentile(np.array(short) * 1e3, [50, 99]) if short else (np.nan, np.nan)
    ended = sum(one is not None for one in took)
    return (
        f"{ended / seconds:.1f}/s ({len(short)} short, {ended - len(short)} long), {p50:.0f} / {p99:.0f} ms"
    )


async def beside(server: Server, count: int) -> tuple[float, float]:
    """p99 in ms of Classify by itself, and while four calls of RISE hold the server."""

    async def p99() -> float:
        seconds, until = list[float](), time.perf_counter() + 10
        while len(seconds) < count and time.perf_counter() < until:
            seconds.append((await server.call(SHORT, 5.0))[1])
            await asyncio.sleep(0.005)
        return float(np.percentile(np.array(seconds) * 1e3, 99))

    alone = await p99()
    holding = [asyncio.create_task(server.call(ENDLESS)) for _ in range(4)]
    await asyncio.sleep(0.5)
    busy = await p99()
    for task in holding:
        task.cancel()
    await asyncio.gather(*holding, return_exceptions=True)
    return alone, busy


async def eight(server: Server) -> str:
    """What becomes of eight SmoothGrads at once whose deadline is six times what one takes."""
    await asyncio.gather(*(server.call(SMOOTHGRAD) for _ in range(3)))
    alone = float(np.median([(await server.call(SMOOTHGRAD))[1] for _ in range(3)]))
    found = await asyncio.gather(*(server.call(SMOOTHGRAD, PATIENCE * alone) for _ in range(8)))
    ended = sorted(seconds / alone for code, seconds in found if code == "OK")
    others = sorted(seconds / alone for code, seconds in found if code == "RESOURCE_EXHAUSTED")
    late = 8 - len(ended) - len(others)
    ends, refused = (", ".join(f"{time:.2f}" for time in times) for times in (ended, others))
    return f"{len(ended)} end (after {ends}), {len(others)} are refused (after {refused}), {late} are late"


async def compare(servers: Mapping[str, Server], seconds: float) -> str:
    """The tables of goodput and latency, in Markdown, of all servers beside perfect lanes."""
    after = list(servers.values())[-1]
    for server in servers.values():
        for request in (SHORT, RISE):
            await server.rate(request, 1.0)
    takes = [LANES / await after.rate(request, 3.0) for request in (SHORT, RISE)]
    lines = [
        f"A short call takes {takes[0] * 1e3:.1f} ms of a lane, a long one {takes[1] * 1e3:.0f} ms.",
        "",
        f"| load | long calls | perfect lanes | {' | '.join(servers)} |",
        "|---" * (3 + len(servers)) + "|",
    ]
    for share in LONG_SHARES:
        for load in LOADS:
            calls = arrivals(load, share, seconds, takes)
            cells = [cell(calls, perfect(calls), seconds)]
            for server in servers.values():
                found = await offered(server, calls)
                took = [taken if code == "OK" else None for code, taken in found]
                cells.append(cell(calls, took, seconds))
            lines.append(f"| {load:g} | {share:.0%} | {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    for name, server in servers.items():
        alone, busy = await beside(server, 150)
        text = (
            f"{name}: p99 of Classify alone {alone:.0f} ms, beside RISE {busy:.0f} ms ({busy / alone:.1f} x)"
        )
        lines += ["", f"{text}; of eight SmoothGrads {await eight(server)}."]
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path, help="checkout of another commit")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    options = parser.parse_args()
    trees = {"before": options.before} if options.before else {}
    trees["after" if trees else "this"] = Path(__file__).parents[1]

    async def run(addresses: Mapping[str, str]) -> str:
        return await compare({name: Server(it) for name, it in addresses.items()}, options.seconds)

    with ExitStack() as stack:
        addresses = {name: stack.enter_context(running(tree)) for name, tree in trees.items()}
        print(asyncio.run(run(addresses)))


if __name__ == "__main__":
    main()
