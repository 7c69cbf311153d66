"""The long run: memory, file descriptors and threads level off; and a short storm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from support.front_end import FrontEnd
from support.job_plane import dream
from support.worker_process import WorkerProcess

from convlens_client import Client
from convlens_workers.settings import WorkerSettings

pytestmark = pytest.mark.slow
WARM_UP, JOBS = 60, 240


class Held(NamedTuple):
    """By one process."""

    megabytes: float
    descriptors: int
    threads: int


def held(process: psutil.Process) -> Held:
    with process.oneshot():
        return Held(process.memory_info().rss / 1e6, process.num_fds(), process.num_threads())


def test_what_processes_hold_levels_off(worker: WorkerProcess, shared_settings: WorkerSettings) -> None:
    names = ("redis", "artifacts", "models", "queue")
    with FrontEnd(**{name: getattr(shared_settings, name) for name in names}) as front_end:
        processes = {
            "front-end": psutil.Process(front_end.process.pid),
            "supervisor": psutil.Process(worker.process.pid),
            "device process": worker.device_process(),
        }
        before: dict[str, Held] = {}
        for number in range(JOBS):
            if number == WARM_UP:
                before = {name: held(process) for name, process in processes.items()}
            with Client(front_end.address) as client:
                operation = client.submit(dream(5).deepdream, model="tiny", seed=number)
                for _ in operation.watch():
                    pass
                assert operation.result()["image"].shape == (1, 3, 32, 32)
        after = {name: held(process) for name, process in processes.items()}
    for name, first in before.items():
        last = after[name]
        assert last.descriptors <= first.descriptors + 2, name
        assert last.threads <= first.threads + 2, name
        assert last.megabytes < 1.1 * first.megabytes + 5, name


@pytest.mark.timeout(900)
def test_a_short_storm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.storm", "--minutes", "0.5", "--shrinking", "0", "--out", tmp_path]
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
