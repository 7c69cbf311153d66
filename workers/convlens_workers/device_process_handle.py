"""How the supervisor starts the device process, talks to it and kills it. Needs no torch."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Final

from convlens_workers.messages import Configure, Died, Event, Ready, Start, Stop

START_TIMEOUT: Final = 120.0

log = logging.getLogger(__name__)


class DeviceProcessHandle:
    """One device process at a time, for the main thread: it dies with the thread that started it."""

    def __init__(self, config: Configure, log_level: str, log_format: str) -> None:
        self._config = config
        self._logs = (log_level, log_format)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self.device = ""

    @property
    def pid(self) -> int:
        """The process id; 0 when no device process runs."""
        return self._process.pid if self._process is not None else 0

    def ensure(self) -> None:
        """Start a device process unless one runs, and wait for its device. Raises RuntimeError if it ends."""
        if self._process is not None and self._process.poll() is None:
            return
        self.kill()
        self._pipe, theirs = Pipe()
        command = [sys.executable, "-m", "convlens_workers.device_process"]
        self._process = subprocess.Popen(
            [*command, str(theirs.fileno()), str(os.getpid()), *self._logs], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        self.send(self._config)
        first = self.receive(START_TIMEOUT)
        if not isinstance(first, Ready):
            self.kill()
            raise RuntimeError("the engine did not start; what it wrote says why")
        self.device = first.device

    def send(self, message: Configure | Start | Stop) -> None:
        """Send a message to the device process; if it is gone, `receive` will say so."""
        assert self._pipe is not None
        try:
            self._pipe.send(message)
        except OSError:
            log.warning("the device process is gone")

    def receive(self, timeout: float) -> Event | None:
        """The next event, None if there is none within `timeout` seconds, Died when there will be none."""
        if self._pipe is None:
            return Died("no device process")
        try:
            event: Event | None = self._pipe.recv() if self._pipe.poll(timeout) else None
        except (EOFError, OSError):
            return Died(self._reason())
        return event

    def kill(self) -> None:
        """End the device process at once, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _reason(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"
