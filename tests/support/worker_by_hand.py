"""What a worker does to a job, done by hand: for tests of the job plane without one."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
import redis

from convlens import wire
from convlens.errors import ConvLensError
from convlens.v1 import job_pb2
from convlens_workers.jobs import ArtifactStore, JobSettings
from convlens_workers.jobs.scripts import OPERATION, SPEEDS
from convlens_workers.jobs.worker_job_store import Attempt, WorkerJobStore


class WorkerByHand:
    """Takes jobs from the queue of `settings` one by one."""

    def __init__(self, settings: JobSettings, lease: float = 30.0) -> None:
        self._redis = redis.Redis.from_url(settings.redis)
        self._queue = f"rq:queue:{settings.queue}"
        self.store = WorkerJobStore(self._redis, settings, lease=lease)
        self.artifacts = ArtifactStore(settings.artifacts_url())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._redis.close()

    def record(self, name: str) -> dict[bytes, bytes]:
        """What Redis keeps of a job."""
        record: dict[bytes, bytes] = self._redis.hgetall(OPERATION + name.removeprefix("operations/"))
        return record

    def speeds(self) -> dict[bytes, bytes]:
        """What Redis keeps of the speed of the queue's jobs."""
        speeds: dict[bytes, bytes] = self._redis.hgetall(f"{SPEEDS}{self._queue.removeprefix('rq:queue:')}")
        return speeds

    def take(self) -> Attempt:
        """Start the next job."""
        taken = self._redis.blmove(self._queue, f"{self._queue}:intermediate", 1)
        assert taken is not None
        attempt = self.store.claim(taken.decode(), "cpu")
        assert attempt is not None
        return attempt

    def request(self, attempt: Attempt) -> job_pb2.SubmitJobRequest:
        """The request of a job, as a worker gets it."""
        return job_pb2.SubmitJobRequest.FromString(self.artifacts.get(attempt.id, "request", attempt.request))

    def succeed(self, attempt: Attempt, **tensors: np.ndarray) -> None:
        """End a job with artifacts."""
        assert self.offer(attempt, **tensors)

    def offer(self, attempt: Attempt, **tensors: np.ndarray) -> bool:
        """End a job with artifacts if it is still this attempt's; whether it was."""
        headers = []
        for name, value in tensors.items():
            self.artifacts.put(attempt.id, "artifacts", value.tobytes())
            headers.append(wire.header(name, value, sha256=True))
        return self.store.succeed(attempt, job_pb2.JobResult(artifacts=headers))

    def fail(self, attempt: Attempt, error: ConvLensError) -> None:
        """End a job with an error."""
        assert self.store.fail(attempt, error)
