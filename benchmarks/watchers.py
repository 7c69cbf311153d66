"""Thousands of watchers and pollers on one front-end: its memory, and how late they hear.

    python -m benchmarks.watchers --watchers 2000 --pollers 2000

A front-end and Redis are started as processes; this process is all the clients, and the worker too: it
reports progress of some jobs, and says when. Lateness: from the report in Redis to the event at the watcher.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.front_end import FrontEnd
from support.job_plane import dream
from support.redis_server import RedisServer
from support.tiny_model import add_tiny_model
from support.worker_by_hand import WorkerByHand

from convlens.v1 import job_pb2, job_pb2_grpc
from convlens_workers.jobs import JobSettings

CHANNELS = 100
"""A connection carries 100 calls at a time; more wait."""
JOBS = 20
RUNNING = job_pb2.JOB_STATE_RUNNING
POLL_SECONDS = 10.0
REPORT_SECONDS = 2.0
ARRIVAL_SECONDS = 0.01
"""Between two watchers; when one process starts 2,000 calls at once, some never leave it."""


class Clients:
    """Watchers and pollers over a few connections, and what they measure."""

    def __init__(self, address: str) -> None:
        own = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.aio.insecure_channel(address, own) for _ in range(CHANNELS)]
        self.lateness: list[float] = []
        self.polls: list[float] = []
        self.watching = 0
        self.refused = 0

    async def watch(self, number: int, name: str) -> None:
        stub = job_pb2_grpc.JobServiceStub(self.channels[number % CHANNELS])
        after = ""
        while True:
            try:
                async for event in stub.WatchJob(job_pb2.WatchJobRequest(name=name, after_event_id=after)):
                    self.hear(event, first=not after)
                    after = event.event_id
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                self.refused += 1
                await asyncio.sleep(2)
            else:
                return

    def hear(self, event: job_pb2.WatchJobResponse, *, first: bool) -> None:
        if first:
            self.watching += 1
        elif event.metadata.state == RUNNING and (told := event.metadata.losses.get("told")):
            self.lateness.append(time.time() - told)

    async def poll(self, number: int, name: str, until: float) -> None:
        stub = operations_pb2_grpc.OperationsStub(self.channels[number % CHANNELS])
        await asyncio.sleep(POLL_SECONDS * (number % 1000) / 1000)
        while time.monotonic() < until:
            began = time.perf_counter()
            try:
                await stub.GetOperation(operations_pb2.GetOperationRequest(name=name))
                self.polls.append(time.perf_counter() - began)
            except grpc.aio.AioRpcError:
                self.refused += 1
            await asyncio.sleep(POLL_SECONDS)


def quantiles(values: list[float]) -> str:
    """Median, 99th percentile and largest, in milliseconds."""
    cuts = statistics.quantiles(values, n=100)
    return " / ".join(f"{1000 * value:.1f}" for value in (cuts[49], cuts[98], max(values))) + " ms"


async def measure(args: argparse.Namespace, folder: Path) -> None:
    server = RedisServer(folder / "redis")
    server.start()
    places = {"redis": server.url, "artifacts": str(folder / "artifacts")}
    models = add_tiny_model(folder / "models")
    try:
        with (
            FrontEnd(**places, models=models) as front_end,
            WorkerByHand(JobSettings(**places)) as worker,
        ):
            await crowd(args, front_end, worker, server)
    finally:
        server.stop()


async def crowd(
    args: argparse.Namespace, front_end: FrontEnd, worker: WorkerByHand, server: RedisServer
) -> None:
    clients = Clients(front_end.address)
    jobs = job_pb2_grpc.JobServiceStub(clients.channels[0])
    names = [(await jobs.SubmitJob(dream(1, seed=n))).name for n in range(JOBS)]
    attempts = [worker.take() for _ in names]
    empty, began = front_end.memory(), time.monotonic()
    watching = []
    for n in range(args.watchers):
        watching.append(asyncio.create_task(clients.watch(n, names[n % JOBS])))
        await asyncio.sleep(ARRIVAL_SECONDS)
    while clients.watching < args.watchers:
        await asyncio.sleep(0.1)
    full = front_end.memory()
    print(f"all watch after {time.monotonic() - began:.1f} s", flush=True)
    until = time.monotonic() + args.seconds
    polling = [asyncio.create_task(clients.poll(n, names[n % JOBS], until)) for n in range(args.pollers)]
    step = 0
    while time.monotonic() < until:
        step += 1
        for attempt in attempts:
            losses = json.dumps({"told": time.time()})
            await asyncio.to_thread(worker.store.update, attempt, {"step": step, "losses": losses})
            await asyncio.sleep(REPORT_SECONDS / JOBS)
    await asyncio.gather(*polling)
    for attempt in attempts:
        worker.succeed(attempt)
    await asyncio.gather(*watching)
    print(f"{args.watchers} watchers of {JOBS} jobs, {args.pollers} pollers each {POLL_SECONDS:g} s")
    each, end = (full - empty) / args.watchers / 1e3, front_end.memory() / 1e6
    print(f"memory of the front-end: {empty / 1e6:.0f} MB, with watchers {full / 1e6:.0f} MB,", end=" ")
    print(f"a watcher {each:.0f} kB, at the end {end:.0f} MB")
    print(f"{len(clients.lateness)} events, late (median / 99% / max): {quantiles(clients.lateness)}")
    print(f"{len(clients.polls)} polls, took (median / 99% / max): {quantiles(clients.polls)}")
    print(f"{clients.refused} calls were refused and made again")
    for channel in clients.channels:
        await channel.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--watchers", type=int, default=2000)
    parser.add_argument("--pollers", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="watchers") as name:
        asyncio.run(measure(args, Path(name)))


if __name__ == "__main__":
    main()
