"""A real Redis for tests: the one that CONVLENS_TEST_REDIS names, else the one that `convlens up` takes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import redis

from convlens_client.up import find_redis

LAST_PORT: Final = 65_535


def redis_binary() -> str:
    """Path of a redis-server or a valkey-server."""
    return os.environ.get("CONVLENS_TEST_REDIS") or find_redis()


def free_port() -> int:
    """One that nobody listens on, and so low that a cluster can listen on the port 10,000 above it, too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port + 10_000 <= LAST_PORT:
            return port


class RedisServer:
    """One redis-server process with an append-only file, which survives `kill` and `start`."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.folder = folder
        self._options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            **{name.replace("_", "-"): value for name, value in self._options.items()},
        }
        values = {name: value if isinstance(value, tuple) else (value,) for name, value in options.items()}
        arguments = [part for name, given in values.items() for part in (f"--{name}", *map(str, given))]
        self._process = subprocess.Popen([redis_binary(), *arguments], stdout=subprocess.DEVNULL)
        with redis.Redis.from_url(self.url) as client:
            for _ in range(200):
                try:
                    client.ping()
                except redis.ConnectionError:
                    time.sleep(0.02)
                else:
                    return
        raise RuntimeError(f"redis-server did not answer on port {self.port}")

    def flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def kill(self) -> None:
        """As a crash would: nothing is saved that was not saved already."""
        self.stop(signal.SIGKILL)

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(sign)
            self._process.wait(10)
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
