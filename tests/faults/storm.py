"""A storm: small jobs over a few workers, while workers, engines and Redis are killed and frozen at random.

    python tests/faults/storm.py --minutes 5

What must hold, from what clients saw: every job that was acknowledged ends in exactly one terminal state, and
every result has the same bytes as an undisturbed run's. Prints the figures; exit code 1 where that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import random
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
from support.front_end import FrontEnd
from support.job_plane import dream, undisturbed
from support.redis_server import RedisServer
from support.tiny_model import add_tiny_model
from support.worker_process import WorkerProcess

from convlens.errors import ConvLensError
from convlens.v1 import job_pb2
from convlens_client import AsyncClient
from convlens_workers.settings import WorkerSettings

TERMINAL = {"SUCCEEDED", "FAILED", "CANCELLED"}
KINDS = 20
"""Different requests; the rest repeat them under request ids of their own."""


@dataclass
class Story:
    """What its client saw of one job."""

    request: job_pb2.SubmitJobRequest
    to_be_cancelled: bool
    name: str = ""
    states: list[str] = field(default_factory=list)
    attempts: int = 0
    reason: str = ""
    sha256: str = ""


class Workers:
    """So many workers; those that end are started anew, as an orchestrator would."""

    def __init__(self, count: int, settings: WorkerSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self.all = [WorkerProcess(settings, folder) for _ in range(count)]

    def revive(self) -> None:
        self.all = [
            worker if worker.process.poll() is None else WorkerProcess(self._settings, self._folder)
            for worker in self.all
        ]

    def end(self) -> None:
        for worker in self.all:
            worker.end()


class Weather:
    """Breaks something now and then."""

    def __init__(self, workers: Workers, server: RedisServer, rng: random.Random) -> None:
        self._workers, self._server, self._rng = workers, server, rng
        self.done: Counter[str] = Counter()

    async def rage(self, until: float) -> None:
        acts = [self.kill_worker, self.kill_engine, self.freeze, self.end_worker, self.kill_redis]
        while time.monotonic() < until:
            await asyncio.sleep(self._rng.uniform(0.5, 3.0))
            act = self._rng.choices(acts, weights=(3, 4, 2, 2, 2))[0]
            with contextlib.suppress(psutil.Error, AssertionError):
                await act()
                self.done[act.__name__.replace("_", " ")] += 1
            self._workers.revive()

    async def kill_worker(self) -> None:
        self._rng.choice(self._workers.all).kill()

    async def kill_engine(self) -> None:
        engine = self._rng.choice(self._workers.all)._engine()
        assert engine is not None
        engine.kill()

    async def freeze(self) -> None:
        worker = self._rng.choice(self._workers.all)
        frozen = [psutil.Process(worker.process.pid), *filter(None, [worker._engine()])]
        for process in frozen:
            process.suspend()
        await asyncio.sleep(self._rng.uniform(0.5, 6.0))
        for process in frozen:
            process.resume()

    async def end_worker(self) -> None:
        self._rng.choice(self._workers.all).process.terminate()

    async def kill_redis(self) -> None:
        self._server.kill()
        await asyncio.sleep(self._rng.uniform(0.1, 5.0))
        await asyncio.to_thread(self._server.start)


async def insist(call: Callable[[], Awaitable]) -> object:
    """What `call` gives, however long Redis is away."""
    while True:
        try:
            return await call()
        except ConvLensError as error:
            if error.retry_after is None:
                raise
            await asyncio.sleep(error.retry_after)


async def live(client: AsyncClient, story: Story, rng: random.Random) -> None:
    """Submit a job, follow it to its end, read what it made."""
    request = story.request
    id_ = str(uuid.UUID(int=rng.getrandbits(128)))
    operation = await insist(
        lambda: client.submit(request.deepdream, model="tiny", seed=request.seed, request_id=id_)
    )
    story.name = operation.name
    if story.to_be_cancelled:
        await asyncio.sleep(rng.uniform(0, 3))
        await insist(operation.cancel)

    async def follow() -> None:
        async for metadata in operation.watch():
            story.states.append(metadata.state)
            story.attempts = metadata.attempt

    await insist(follow)
    await look(client, story)


async def look(client: AsyncClient, story: Story) -> None:
    """At the end of a job, once more."""
    operation = await insist(lambda: client.operation(story.name))
    story.states.append(operation.metadata.state)
    if operation.metadata.state == "SUCCEEDED":
        image = await insist(lambda: operation.artifact("image"))
        story.sha256 = hashlib.sha256(image.tobytes()).hexdigest()
    elif operation.state.error is not None:
        story.reason = operation.state.error.reason


async def storm(args: argparse.Namespace, folder: Path, models: Path) -> tuple[list[Story], Counter[str]]:
    """All of it; returns when every job has ended."""
    rng = random.Random(args.seed)
    server = RedisServer(folder / "redis")
    server.start()
    places = {"redis": server.url, "artifacts": str(folder / "artifacts"), "models": models}
    settings = WorkerSettings(**places, device="cpu", lease=2.0, checkpoint_interval=0.3, grace=3.0)
    workers = Workers(args.workers, settings, folder)
    stories = [
        Story(dream(100 + 25 * (number % KINDS), seed=number % KINDS), rng.random() < 0.1)
        for number in range(args.jobs)
    ]
    weather = Weather(workers, server, rng)
    seconds = args.minutes * 60
    try:
        with FrontEnd(**places) as front_end:
            async with AsyncClient(front_end.address) as client:
                raging = asyncio.create_task(weather.rage(time.monotonic() + seconds))
                jobs = []
                for story in stories:
                    jobs.append(asyncio.create_task(live(client, story, rng)))
                    await asyncio.sleep(0.8 * seconds / args.jobs)
                await raging
                async with asyncio.timeout(300):
                    await asyncio.gather(*jobs)
                for story in stories:
                    await look(client, story)
    finally:
        workers.end()
        server.stop()
    return stories, weather.done


def faults_of(story: Story, expected: str) -> list[str]:
    """What is wrong with how a job went."""
    ends = {state for state in story.states if state in TERMINAL}
    first = next((i for i, state in enumerate(story.states) if state in TERMINAL), -1)
    found = [] if len(ends) == 1 else [f"ended as {sorted(ends) or 'nothing'}"]
    if any(state not in TERMINAL for state in story.states[first:]):
        found.append("went on after its end")
    if ends == {"SUCCEEDED"} and story.sha256 != expected:
        found.append("its bytes are not those of an undisturbed run")
    if ends == {"FAILED"} and story.reason != "WORKER_CRASHED":
        found.append(f"failed: {story.reason}")
    if ends == {"CANCELLED"} and not story.to_be_cancelled:
        found.append("cancelled by nobody")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm") as name:
        models = add_tiny_model(Path(name) / "models")
        began = time.monotonic()
        stories, done = asyncio.run(storm(args, Path(name), models))
        took = time.monotonic() - began
        wrong = {
            story.name: faults
            for story in stories
            if (faults := faults_of(story, undisturbed(models, story.request)))
        }
    print(f"{args.jobs} jobs, {args.workers} workers, {took:.0f} s")
    print("broken:", ", ".join(f"{what} {count}" for what, count in sorted(done.items())))
    print("ends:", dict(sorted(Counter(story.states[-1] for story in stories).items())))
    print("attempts:", dict(sorted(Counter(story.attempts for story in stories).items())))
    print("same bytes as undisturbed:", sum(bool(story.sha256) for story in stories) - len(wrong))
    for name, faults in wrong.items():
        print("WRONG", name, *faults)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
