"""Small jobs over a few workers, while workers, device processes and Redis are killed and frozen at random.

    python tests/faults/chaos.py --minutes 5

What must hold, from what clients saw: every job that was acknowledged ends in exactly one terminal state, and
every result has the same bytes as an undisturbed run's. Prints the figures; exit code 1 where that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
from support.fleet import Fleet
from support.job_plane import dream, undisturbed
from support.stories import Story, faults_of, live, look
from support.tiny_model import add_tiny_model

from convlens_client import AsyncClient

KINDS = 20
"""Different requests; the rest repeat them under request ids of their own."""


class ChaosMonkey:
    """Breaks a random process every few seconds."""

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        self._fleet, self._rng = fleet, rng
        self.done: Counter[str] = Counter()

    async def inject_faults(self, until: float) -> None:
        acts = [self.kill_worker, self.kill_device_process, self.freeze, self.end_worker, self.kill_redis]
        while time.monotonic() < until:
            await asyncio.sleep(self._rng.uniform(0.5, 3.0))
            act = self._rng.choices(acts, weights=(3, 4, 2, 2, 2))[0]
            with contextlib.suppress(psutil.Error, AssertionError):
                await act()
                self.done[act.__name__.replace("_", " ")] += 1
            self._fleet.revive()

    async def kill_worker(self) -> None:
        self._rng.choice(self._fleet.workers).kill()

    async def kill_device_process(self) -> None:
        device_process = self._rng.choice(self._fleet.workers)._device_process()
        assert device_process is not None
        device_process.kill()

    async def freeze(self) -> None:
        worker = self._rng.choice(self._fleet.workers)
        frozen = [psutil.Process(worker.process.pid), *filter(None, [worker._device_process()])]
        for process in frozen:
            process.suspend()
        await asyncio.sleep(self._rng.uniform(0.5, 6.0))
        for process in frozen:
            process.resume()

    async def end_worker(self) -> None:
        self._rng.choice(self._fleet.workers).process.terminate()

    async def kill_redis(self) -> None:
        self._fleet.redis.kill()
        await asyncio.sleep(self._rng.uniform(0.1, 5.0))
        await asyncio.to_thread(self._fleet.redis.start)


async def chaos(args: argparse.Namespace, folder: Path, models: Path) -> tuple[list[Story], Counter[str]]:
    """All of it; returns when every job has ended."""
    rng = random.Random(args.seed)
    stories = [
        Story(dream(100 + 25 * (number % KINDS), seed=number % KINDS), rng.random() < 0.1)
        for number in range(args.jobs)
    ]
    seconds = args.minutes * 60
    limits = {"lease": 2.0, "checkpoint_interval": 0.3, "grace": 3.0}
    with Fleet(folder, models, front_ends=1, workers=args.workers, **limits) as fleet:
        monkey = ChaosMonkey(fleet, rng)
        async with AsyncClient(fleet.address) as client:
            injecting = asyncio.create_task(monkey.inject_faults(time.monotonic() + seconds))
            jobs = []
            for story in stories:
                jobs.append(asyncio.create_task(live(client, story, rng)))
                await asyncio.sleep(0.8 * seconds / args.jobs)
            await injecting
            async with asyncio.timeout(300):
                await asyncio.gather(*jobs)
            for story in stories:
                await look(client, story)
    return stories, monkey.done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos") as name:
        models = add_tiny_model(Path(name) / "models")
        began = time.monotonic()
        stories, done = asyncio.run(chaos(args, Path(name), models))
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
