"""A real worker process for tests, with its device process within reach."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from convlens_workers.settings import WorkerSettings


def environment(settings: WorkerSettings) -> dict[str, str]:
    """The variables that give another process these settings."""
    values = settings.model_dump(exclude_unset=True)
    return {
        f"CONVLENS_{name.upper()}": json.dumps(value) if isinstance(value, dict) else str(value)
        for name, value in values.items()
    }


class WorkerProcess:
    """`convlens-worker` with one thread a process; its log lies in `folder`."""

    def __init__(self, settings: WorkerSettings, folder: Path, *arguments: str) -> None:
        self._log = folder / f"worker-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "convlens_workers", *arguments],
                env=os.environ | environment(settings) | {"OMP_NUM_THREADS": "1"},
                stderr=log,
            )

    def lines(self) -> list[dict[str, object]]:
        """What it has logged."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.endswith("}")]

    def ready(self, within: float = 120.0) -> WorkerProcess:
        """Itself, once it can take jobs."""
        eventually(lambda: any(line["message"] == "ready" for line in self.lines()), within, self.describe)
        return self

    def device_process(self) -> psutil.Process:
        """The process that owns its device."""
        return eventually(self._device_process, 30.0, self.describe)

    def _device_process(self) -> psutil.Process | None:
        children = psutil.Process(self.process.pid).children()
        named = (child for child in children if "convlens_workers.device_process" in child.cmdline())
        return next(named, None)

    def kill(self) -> None:
        """As the kernel would when memory runs out."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self, within: float = 15.0) -> int:
        """SIGTERM; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within)

    def end(self) -> None:
        """After a test, however it went."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def describe(self) -> str:
        """For messages of failed tests."""
        return f"exit code {self.process.poll()}\n{self._log.read_text()[-4000:]}"


Spawn = Callable[..., WorkerProcess]
"""Starts a worker with changed settings."""


def eventually(look: Callable[[], Any], within: float = 10.0, describe: Callable[[], str] = str) -> Any:
    """What `look` gives as soon as it is true."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not seen within {within} s: {describe()}")
