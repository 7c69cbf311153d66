"""A real server process for tests that kill it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from types import TracebackType
from typing import Self

import psutil


class FrontEnd:
    """`convlens-server`, or another program, on a free port with the given settings; ready when made."""

    def __init__(self, *program: str, **settings: object) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CONVLENS_")}
        given = {"listen": "127.0.0.1:0", "lanes": 1, "threads": 1, "log_level": "WARNING", **settings}
        variables = {f"CONVLENS_{name.upper()}": str(value) for name, value in given.items()}
        self.process = subprocess.Popen(
            [sys.executable, *(program or ("-m", "convlens_server"))],
            env=kept | variables | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        ready = re.fullmatch(r"convlens-server ready on (\S+) \(.*\)\n", self.process.stdout.readline())
        assert ready is not None, self.process.wait()
        self.address = ready[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self, sign: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal that ends it; gives the exit code."""
        self.process.send_signal(sign)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)
