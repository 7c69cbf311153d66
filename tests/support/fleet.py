"""Front-ends, workers and a Redis, each a process of its own, any of which can be ended and replaced."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from support.front_end import FrontEnd
from support.redis_server import RedisServer
from support.silent_proxy import SilentProxy
from support.worker_process import WorkerProcess

from convlens_workers.settings import WorkerSettings


class Fleet:
    """So many front-ends, which are ready when this is made, and workers, which may not be as yet.

    Args:
        folder: of Redis's append-only file, the artifacts and the logs.
        proxied: whether they reach Redis through `network`.
        worker: further settings of the workers.
    """

    def __init__(
        self,
        folder: Path,
        models: Path,
        *,
        front_ends: int,
        workers: int,
        proxied: bool = False,
        **worker: object,
    ) -> None:
        self.redis = RedisServer(folder / "redis")
        self.redis.start()
        self.artifacts = folder / "artifacts"
        self.network = SilentProxy(f"127.0.0.1:{self.redis.port}") if proxied else None
        url = f"redis://{self.network.address}/0" if self.network else self.redis.url
        self._plane = {"redis": url, "artifacts": str(self.artifacts), "models": models}
        self.settings = WorkerSettings(**self._plane, device="cpu", **worker)
        self._logs = folder
        self.workers: list[WorkerProcess] = []
        self.front_ends: list[FrontEnd] = []
        try:
            self.workers += (self._worker() for _ in range(workers))
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._add_front_end, range(front_ends)))
        except BaseException:
            self.end()
            raise

    @property
    def address(self) -> str:
        """Of all front-ends, as a name with several addresses gives them."""
        return "ipv4:" + ",".join(front_end.address for front_end in self.front_ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """After a test, however it went."""
        for front_end in self.front_ends:
            front_end.end()
        for worker in self.workers:
            worker.end()
        if self.network:
            self.network.close()
        self.redis.stop()

    def replace_front_end(self, number: int, sign: signal.Signals) -> int:
        """End it, then start another one on its port; gives the exit code."""
        old = self.front_ends[number]
        code = old.end(sign)
        self.front_ends[number] = self._front_end(old.address)
        return code

    def replace_worker(self, number: int, sign: signal.Signals) -> int:
        """The same for a worker."""
        old = self.workers[number].process
        old.send_signal(sign)
        code = old.wait(30)
        self.workers[number] = self._worker().ready()
        return code

    def replace_redis(self, sign: signal.Signals) -> None:
        """The same for Redis, which finds its append-only file."""
        self.redis.stop(sign)
        self.redis.start()

    def revive(self) -> None:
        """Start the workers anew that have ended, as an orchestrator would."""
        self.workers = [
            worker if worker.process.poll() is None else self._worker() for worker in self.workers
        ]

    def _worker(self) -> WorkerProcess:
        return WorkerProcess(self.settings, self._logs)

    def _add_front_end(self, _: int) -> None:
        self.front_ends.append(self._front_end("127.0.0.1:0"))

    def _front_end(self, listen: str) -> FrontEnd:
        return FrontEnd(**self._plane, listen=listen)
