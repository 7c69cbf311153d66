"""The worker's side of the job plane: claim a job, hold its lease, report, finish; and sweep after the dead.

Everything that an attempt writes is fenced by its token: after the job was taken away, nothing of it counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from convlens.errors import ConvLensError, Unavailable, to_status
from convlens.v1 import job_pb2
from convlens.v1.tensor_pb2 import TensorHeader
from convlens_workers.jobs import scripts
from convlens_workers.jobs.artifacts import ArtifactStore
from convlens_workers.jobs.record import JobRecord
from convlens_workers.jobs.redis_errors import redis_errors
from convlens_workers.jobs.settings import JobSettings
from convlens_workers.jobs.stats import to_stats
from convlens_workers.jobs.tidying import tidy

MAX_CRASHES: Final = 3
SWEEPS_A_LEASE: Final = 5
TIDY_INTERVAL: Final = 3600
TIDIED_AT_ONCE: Final = 100
"""Jobs that maintenance tidies between two sweeps."""


@dataclass(frozen=True)
class Attempt:
    """One run of a job by one worker."""

    id: str
    token: str
    number: int
    request: str
    """SHA-256 of the stored request."""
    checkpoints: tuple[str, ...]
    """SHA-256 of the checkpoints to resume from, newest first."""
    ran: float = 0.0
    """Seconds that earlier attempts have run."""
    technique: str = ""
    waited: float = 0.0
    """Seconds from the job's submission to this attempt."""
    trace: str = ""
    """W3C traceparent of the call that submitted the job."""
    artifacts: tuple[TensorHeader, ...] = ()
    """Pictures on the way that earlier attempts have stored."""
    resumable: bool = False
    """Whether another job may go on from this one once it has ended."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Digests by "name/version" of the networks that the job is bound to."""


@dataclass(frozen=True)
class LeaseStatus:
    """What an attempt learns when it reports."""

    lost: bool
    """The job is not this attempt's any more: stop, and write nothing."""
    cancel_requested: bool


class WorkerJobStore:
    """Jobs in Redis as a worker sees them. Every method raises Unavailable when Redis is away.

    Args:
        redis: a sync client.
        settings: of the job plane.
        lease: seconds after its last report that a job is taken away from its worker.
    """

    def __init__(self, redis: Any, settings: JobSettings, lease: float) -> None:
        self._redis = redis
        self._scripts = scripts.bind(redis)
        self._context = scripts.context(settings)
        self._queue = settings.queue
        self._lease = int(lease * 1000)
        self._name = uuid.uuid4().hex

    def claim(self, id_: str, device: str) -> Attempt | None:
        """Start an attempt, or None where the job does not wait any more."""
        token = uuid.uuid4().hex
        flat = self._call("claim", id_, token, self._lease, device)
        if flat is None:
            return None
        record = JobRecord.from_fields(id_, dict(zip(flat[::2], flat[1::2], strict=True)))
        metadata, request, checkpoints = record.metadata, record.request, record.checkpoints
        waited = (metadata.start_time.ToMilliseconds() - metadata.create_time.ToMilliseconds()) / 1000
        known = (metadata.technique, waited, record.trace, tuple(metadata.artifacts), metadata.resumable)
        return Attempt(
            id_, token, metadata.attempt, request, checkpoints, record.ran, *known, models=record.models
        )

    def update(
        self, attempt: Attempt, fields: Mapping[str, str | int | bytes] | None = None, preview: bytes = b""
    ) -> LeaseStatus:
        """Renew the lease; with `fields` of the metadata, write them and send an event."""
        flat = [part for pair in (fields or {}).items() for part in pair]
        outcome = self._call("update", attempt.id, attempt.token, self._lease, preview, *flat)
        return LeaseStatus(lost=outcome == -1, cancel_requested=outcome == 1)

    def checkpoint(self, attempt: Attempt, digest: str) -> str | None:
        """Make a stored checkpoint the newest; gives the one to drop ("" none), None when lost."""
        dropped = self._call("checkpoint", attempt.id, attempt.token, digest)
        return None if dropped is None else dropped.decode()

    def succeed(self, attempt: Attempt, result: job_pb2.JobResult) -> bool:
        """End the job with stored artifacts; whether it was, or is already, this attempt that does so."""
        body = result.SerializeToString(deterministic=True)
        return self._finish(attempt, job_pb2.JOB_STATE_SUCCEEDED, "result", body)

    def fail(self, attempt: Attempt, error: ConvLensError) -> bool:
        """End the job with an error (a job that was to be cancelled ends as such); as `succeed`."""
        body = to_status(error).SerializeToString(deterministic=True)
        return self._finish(attempt, job_pb2.JOB_STATE_FAILED, "error", body)

    def leave(self, attempt: Attempt, checkpoint: str, artifacts: Sequence[TensorHeader]) -> bool:
        """What an attempt still had when its job was ended under it, as by a cancel; the state stays.

        Args:
            checkpoint: SHA-256 of its last one, "" where there is none.
            artifacts: all pictures on the way; empty where there is no new one.

        False where nothing is taken down: the job is another's, or gone.
        """
        body = job_pb2.JobResult(artifacts=artifacts).SerializeToString(deterministic=True)
        return bool(self._call("leave", attempt.id, attempt.token, checkpoint, body))

    def abandon(self, attempt: Attempt) -> None:
        """The job is another attempt's; this one may have stored what its record will not name."""
        self._call("abandon", attempt.id)

    def requeue(self, attempt: Attempt, *, crashed: bool) -> bool:
        """Give the job back: to the front of the queue, or after a crash to its end.

        After three crashes without a new checkpoint between them it fails; one that was to be cancelled ends
        as such. False when it is another attempt's.
        """
        return bool(self._call("requeue", attempt.id, attempt.token, int(crashed), MAX_CRASHES))

    def sweep(self) -> list[str]:
        """Take jobs away from workers that have not reported for a lease; gives their ids.

        Whoever calls this counts among the live workers of the queue for a lease.
        Any number of workers may call this as often as they like: it acts five times a lease in all, and on
        each lost lease once. After a pause of all sweeps (Redis was away) every lease gets one more term.
        """
        arguments = (self._lease, self._lease // SWEEPS_A_LEASE, MAX_CRASHES, self._name)
        return [id_.decode() for id_ in self._call("sweep", "", *arguments)]

    def withdraw(self) -> None:
        """Do not count among the live workers any more."""
        with redis_errors():
            self._redis.zrem(scripts.WORKERS + self._queue, self._name)

    def stats(self) -> job_pb2.QueueStats:
        """Lengths, counters and throughput of this worker's queue."""
        return to_stats(self._call("stats", "", ""), self._queue, job_pb2.PRIORITY_UNSPECIFIED)

    def may_tidy(self) -> bool:
        """Whether this worker is the one that tidies up in this hour."""
        with redis_errors():
            return bool(self._redis.set("convlens:tidied", "", nx=True, ex=TIDY_INTERVAL))

    def tidy(self, artifacts: ArtifactStore, id_: str) -> None:
        """Remove what an ended job's record does not name, if something may be left. Raises Unavailable."""
        if found := self._call("untidy", id_):
            due, flat = found
            tidy(artifacts, id_, dict(zip(flat[::2], flat[1::2], strict=True)))
            self._call("tidied", id_, due)

    def tidy_due(self, artifacts: ArtifactStore) -> None:
        """The same for jobs that nobody has tidied in time, some of them. Raises Unavailable."""
        for id_ in self._call("due", "", TIDIED_AT_ONCE):
            try:
                self.tidy(artifacts, id_.decode())
            except Unavailable:
                self._call("postpone", id_)
                raise

    def unknown(self, ids: list[str]) -> list[str]:
        """Those of `ids` that there is no record of."""
        with redis_errors():
            return [id_ for id_ in ids if not self._redis.exists(scripts.OPERATION + id_)]

    def _finish(self, attempt: Attempt, state: int, name: str, body: bytes) -> bool:
        return bool(self._call("finish", attempt.id, attempt.token, state, name, body))

    def _call(self, script: str, *arguments: Any) -> Any:
        with redis_errors():
            return self._scripts[script](args=[*self._context, *arguments])
