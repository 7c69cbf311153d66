"""Small jobs over servers and workers, while processes, Redis, the network and the disk fail at random.

    python -m tests.storm --seed 7 --minutes 5
    python -m tests.storm --replay storm-7.json

A seed gives a script: which job is submitted when, and what is broken when, for how long. What must hold:
every job that was acknowledged ends in exactly one terminal state; every result has the bytes of one that
nothing disturbed; every call ends, in an answer or an error; in the end Redis counts as many ends as jobs,
and the artifact store holds what the records name. Prints the figures. Where something is wrong the exit code
is 1, and the script is shrunk to one that still fails, and none of whose events can be left out: a file for
--replay.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import json
import os
import random
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import psutil
from support.counting_client import CountingClient
from support.faults import bad_disk, tidied, unnamed
from support.fleet import Fleet
from support.job_plane import dream, undisturbed
from support.refusals import REFUSALS
from support.shrinking import shortest
from support.stories import Story, faults_of, live, look
from support.tiny_model import add_tiny_model

KINDS: Final = 20
"""Different requests; the rest repeat them under request ids of their own."""
PATIENCE: Final = 180.0
"""Seconds after the last event by which every call has ended."""
LIMITS: Final = {"lease": 2.0, "checkpoint_interval": 0.3, "grace": 3.0, "hang_timeout": 20.0}


class Event(NamedTuple):
    """What happens in a storm."""

    at: float
    """Seconds from its beginning."""
    act: str
    """A job, or a row of `ACTS`."""
    seconds: float = 0.0
    """How long it lasts; of a job that is to be cancelled, how long it is left alone."""
    number: int = 0
    """Which job, worker, server, answer of Redis it is."""


class World:
    """A fleet behind a network and on a disk that can be broken; each act undoes itself when it is over."""

    def __init__(self, fleet: Fleet, disk: Path) -> None:
        self._fleet, self._disk = fleet, disk
        self._redis, self._servers = asyncio.Lock(), asyncio.Lock()
        self.done: Counter[str] = Counter()

    async def happen(self, event: Event) -> None:
        """One event, from its beginning to its end; nothing where its victim has just gone."""
        with contextlib.suppress(psutil.Error, AssertionError):
            await ACTS[event.act](self, event)
            self.done[event.act] += 1

    async def keep(self) -> None:
        """Start workers anew that have ended, until this is cancelled."""
        while True:
            self._fleet.revive()
            await asyncio.sleep(0.5)

    async def kill_worker(self, event: Event) -> None:
        self._worker(event).kill()

    async def end_worker(self, event: Event) -> None:
        self._worker(event).process.terminate()

    async def kill_device_process(self, event: Event) -> None:
        device_process = self._worker(event)._device_process()
        assert device_process is not None
        device_process.kill()

    async def freeze_worker(self, event: Event) -> None:
        worker = self._worker(event)
        frozen = [psutil.Process(worker.process.pid), *filter(None, [worker._device_process()])]
        for process in frozen:
            process.suspend()
        await asyncio.sleep(event.seconds)
        for process in frozen:
            with contextlib.suppress(psutil.Error):
                process.resume()

    async def replace_server(self, event: Event) -> None:
        which, kind = event.number % len(self._fleet.front_ends), event.number // 2 % 2
        async with self._servers:
            await asyncio.to_thread(self._fleet.replace_front_end, which, (SIGKILL, SIGTERM)[kind])

    async def kill_redis(self, event: Event) -> None:
        async with self._redis:
            self._fleet.redis.kill()
            await asyncio.sleep(event.seconds)
            await asyncio.to_thread(self._fleet.redis.start)

    async def pause_redis(self, event: Event) -> None:
        async with self._redis:
            self._fleet.redis.pause()
            await asyncio.sleep(event.seconds)
            self._fleet.redis.resume()

    async def refuse(self, event: Event) -> None:
        code = sorted(REFUSALS)[event.number % len(REFUSALS)]
        async with self._redis:
            with REFUSALS[code].provoked(self._fleet.redis):
                await asyncio.sleep(event.seconds)

    async def lose(self, event: Event) -> None:
        """What is sent to Redis, what it answers, or both."""
        network = self._fleet.network
        assert network is not None
        network.drops = ((True, False), (False, True), (True, True))[event.number % 3]
        await asyncio.sleep(event.seconds)
        network.drops = (False, False)

    async def delay(self, event: Event) -> None:
        network = self._fleet.network
        assert network is not None
        network.delay = (0.05, 0.3, 1.2)[event.number % 3]
        await asyncio.sleep(event.seconds)
        network.delay = 0.0

    async def break_disk(self, event: Event) -> None:
        self._disk.write_text(("0.5 ok", "0 ENOSPC", "0 EIO")[event.number % 3])
        await asyncio.sleep(event.seconds)
        self._disk.unlink(missing_ok=True)

    def _worker(self, event: Event) -> Any:
        return self._fleet.workers[event.number % len(self._fleet.workers)]


ACTS: Final[dict[str, Callable[[World, Event], Any]]] = {
    name.replace("_", " "): act
    for name, act in vars(World).items()
    if inspect.iscoroutinefunction(act) and name not in ("happen", "keep")
}
JOB: Final = "job"


def script(seed: int, seconds: float) -> list[Event]:
    """The events of a storm, which a seed decides: a job every 2 s, and something that breaks as often."""
    rng = random.Random(seed)
    count = max(1, round(seconds / 2))
    jobs = [
        Event(rng.uniform(0, 0.8 * seconds), JOB, rng.choice([0.0] * 9 + [rng.uniform(0.1, 3)]), number)
        for number in range(count)
    ]
    broken = [
        Event(rng.uniform(0, seconds), rng.choice(sorted(ACTS)), rng.uniform(0.3, 5), rng.randrange(60))
        for _ in range(count)
    ]
    return sorted(
        event._replace(at=round(event.at, 2), seconds=round(event.seconds, 2)) for event in jobs + broken
    )


class Outcome(NamedTuple):
    """How a storm went."""

    wrong: list[str]
    figures: list[str]


async def storm(events: list[Event], folder: Path, models: Path, workers: int = 3) -> Outcome:
    """All of it; returns when every call has ended, or should have."""
    disk = folder / "disk"
    os.environ.update(bad_disk(disk))
    stories = {event: Story(request_of(event), event.seconds > 0) for event in events if event.act == JOB}
    async with living(folder, models, workers) as (fleet, client):
        world, wrong = World(fleet, disk), []
        began = time.monotonic()

        async def happen(event: Event) -> None:
            await asyncio.sleep(began + event.at - time.monotonic())
            if event.act != JOB:
                return await world.happen(event)
            name = uuid.uuid5(uuid.NAMESPACE_OID, str(event.number))
            return await live(client, stories[event], name, event.seconds)

        keeping = asyncio.create_task(world.keep())
        tasks = {event: asyncio.create_task(happen(event)) for event in events}
        last = max((event.at + event.seconds for event in events), default=0.0)
        await asyncio.wait(tasks.values(), timeout=last + PATIENCE)
        for event, task in tasks.items():
            if not task.done():
                task.cancel()
                wrong.append(f"{event} has not ended in {PATIENCE:g} s")
            elif task.exception() is not None:
                wrong.append(f"{event}: {task.exception()!r}")
        if not wrong:
            for story in stories.values():
                await look(client, story)
            keeping.cancel()
            wrong += await asyncio.to_thread(judged, fleet, list(stories.values()), models)
        figures = [
            f"broken: {dict(sorted(world.done.items()))}",
            f"ends: {counted((story.states or ['none'])[-1] for story in stories.values())}",
            f"attempts: {counted(story.attempts for story in stories.values())}",
            str(client.account),
        ]
    return Outcome(wrong, figures)


@asynccontextmanager
async def living(folder: Path, models: Path, workers: int) -> AsyncIterator[tuple[Fleet, CountingClient]]:
    """Two servers and some workers, ready, and a client of both servers."""
    with Fleet(folder, models, front_ends=2, workers=workers, proxied=True, **LIMITS) as fleet:
        for worker in fleet.workers:
            await asyncio.to_thread(worker.ready, 300)
        async with CountingClient(fleet.address) as client:
            yield fleet, client


def counted(values: Iterable[Any]) -> dict[Any, int]:
    """How often there is each value."""
    return dict(sorted(Counter(values).items()))


def request_of(event: Event) -> Any:
    """What a job asks for."""
    return dream(100 + 25 * (event.number % KINDS), seed=event.number % KINDS)


def judged(fleet: Fleet, stories: list[Story], models: Path) -> list[str]:
    """What is wrong with jobs that have all ended."""
    wrong = []
    for worker in fleet.workers:  # They tell what they have left.
        if worker.process.poll() is None and (code := worker.terminate(60)):
            wrong.append(f"a worker ended with {code}")
    counters = tidied(fleet.settings.model_copy(update={"redis": fleet.redis.url}))
    ends = sum(counters[name] for name in ("succeeded", "failed", "cancelled"))
    if not ends == counters["submitted"] == len(stories):
        wrong.append(f"{len(stories)} jobs, {counters['submitted']} submitted, {ends} ends")
    for story in stories:
        faults = faults_of(story, undisturbed(models, story.request))
        if left := unnamed(fleet.redis.url, fleet.artifacts, story.name):
            faults.append(f"the artifact store holds {sorted(left)} of it")
        wrong += [f"{story.name}: {fault}" for fault in faults]
    known = {story.name.removeprefix("operations/") for story in stories}
    folders = {path.name for path in fleet.artifacts.glob("operations/*")}
    wrong += [f"{name}: objects of no job" for name in folders - known]
    return wrong


def weather(events: list[Event]) -> Outcome:
    """One storm in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="storm") as name:
        return asyncio.run(storm(events, Path(name), add_tiny_model(Path(name) / "models")))


def main(arguments: list[str] | None = None, run: Callable[[list[Event]], Outcome] = weather) -> int:
    """The exit code: 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=5.0, help="that things are broken for")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="a script instead of a seed")
    parser.add_argument(
        "--shrinking", type=float, default=60.0, metavar="MINUTES", help="that shrinking may take"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="FOLDER", help="for the script of a failure"
    )
    args = parser.parse_args(arguments)
    events = read(args.replay) if args.replay else script(args.seed, 60 * args.minutes)
    began = time.monotonic()
    outcome = run(events)
    jobs = sum(event.act == JOB for event in events)
    print(
        f"{jobs} jobs, {len(events) - jobs} faults, {time.monotonic() - began:.0f} s",
        *outcome.figures,
        sep="\n",
    )
    if not outcome.wrong:
        return 0
    print(*(f"WRONG {each}" for each in outcome.wrong), sep="\n")
    until = time.monotonic() + 60 * args.shrinking
    short = shortest(events, partial(still_fails, run=run, until=until))
    place = args.out / f"{args.replay.stem if args.replay else f'storm-{args.seed}'}-short.json"
    place.write_text("".join(f"{json.dumps(event._asdict())}\n" for event in short))
    print(f"{len(short)} of {len(events)} events fail as well: --replay {place}", *short, sep="\n")
    return 1


def still_fails(events: list[Event], run: Callable[[list[Event]], Outcome], until: float) -> bool:
    """Whether a part of a script fails, as far as there is time to look."""
    return time.monotonic() < until and bool(run(events).wrong)


def read(place: Path) -> list[Event]:
    """A script that a failure has left."""
    return [Event(**json.loads(line)) for line in place.read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
