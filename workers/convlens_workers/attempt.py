"""One attempt at a job, seen from the supervisor: from its start to its recorded end."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

from google.rpc.status_pb2 import Status

from convlens.errors import Cancelled, DeadlineExceeded, Unavailable, from_status, to_status
from convlens.v1 import job_pb2
from convlens.v1.tensor_pb2 import TensorHeader
from convlens_workers import messages
from convlens_workers.device_process_handle import DeviceProcessHandle
from convlens_workers.jobs.artifacts import ArtifactStore
from convlens_workers.jobs.redis_errors import AWAY
from convlens_workers.jobs.worker_job_store import Attempt, LeaseStatus, WorkerJobStore
from convlens_workers.messages import Died, End, Failed, Finished, Stopped
from convlens_workers.metrics import Metrics
from convlens_workers.settings import WorkerSettings
from convlens_workers.spans import ended, spanning

TICK: Final = 0.2
"""Seconds between looks at the record: what a cancel, or the loss of the job, may take to be seen."""

log = logging.getLogger(__name__)


class AttemptState(Enum):
    """What the supervisor wants of an attempt."""

    RUNNING = "that the job goes on to its end"
    DRAINING = "that it stops with a checkpoint, for the worker ends; the job goes back to the queue"
    OVERDUE = "that it stops, for the job has run too long; the job fails"
    CANCELLED = "that it stops, for the job is cancelled, which is written; what there is so far follows"
    ABANDONED = "that it stops, for the job is another attempt's; nothing more is written"


RUNNING, DRAINING, OVERDUE, CANCELLED, ABANDONED = AttemptState


TRANSITIONS: Final[Mapping[AttemptState, frozenset[AttemptState]]] = {
    RUNNING: frozenset((DRAINING, OVERDUE, CANCELLED, ABANDONED)),
    DRAINING: frozenset((OVERDUE, CANCELLED, ABANDONED)),
    OVERDUE: frozenset((CANCELLED, ABANDONED)),
    CANCELLED: frozenset(),
    ABANDONED: frozenset(),
}
"""The states that may follow each; the device process is told to stop when the first of them does."""


@dataclass
class AttemptRunner:
    """Follows the device process through one attempt, and keeps the record.

    While Redis is away the device process works on: the latest progress and checkpoint are written when Redis
    is back, and so is the end. Once the job is lost to another attempt, nothing is written any more.
    """

    attempt: Attempt
    process: DeviceProcessHandle
    store: WorkerJobStore
    artifacts: ArtifactStore
    settings: WorkerSettings
    draining: Callable[[], bool]
    metrics: Metrics

    def __post_init__(self) -> None:
        self._state = RUNNING
        self._artifacts = {header.name: header for header in self.attempt.artifacts}
        """Pictures on the way, stored by this attempt and those before it."""
        self._artifacts_written = True
        self._progress: messages.Progress | None = None
        self._checkpoints: list[str] = []
        """Stored, and not known to be written: of the first Redis may have been told, of the second not."""
        self._stop_by = math.inf
        """When the device process must have stopped, by the monotonic clock."""
        self._began = time.monotonic()

    def run(self) -> None:
        """From Start to the end in the record, or until the job is lost."""
        attempt = self.attempt
        with spanning(attempt, self.process.device) as self._span:
            self.metrics.began()
            start = (attempt.id, attempt.request, attempt.checkpoints, dict(attempt.models))
            self.process.send(messages.Start(*start))
            end = self._follow()
            name, why = type(end).__name__, end.reason if isinstance(end, Died) else ""
            extra = {"operation": attempt.id, "attempt": attempt.number, "why": why}
            log.info("attempt ended: %s", name, extra=extra)
            self.metrics.ended(name.lower())
            ended(self._span, name.lower(), why, failed=isinstance(end, Failed | Died))
            if isinstance(end, Died):
                self.process.kill()
            if self._state is OVERDUE and not isinstance(end, Finished):
                end = self._too_long()
            self._insist(partial(self._close, end))

    def _follow(self) -> End:
        heard = time.monotonic()
        while True:
            event = self.process.receive(TICK)
            now = time.monotonic()
            if isinstance(event, End):
                return event
            if event is not None:
                heard = now
                self._note(event)
            self._report()
            if self.draining():
                self._become(DRAINING)
            if self.attempt.ran + now - self._began > self.settings.job_timeout:
                self._become(OVERDUE)
            if now > self._stop_by:
                return Stopped() if self._state is DRAINING else Died("it did not stop")
            if now - heard > self.settings.hang_timeout:
                return Died("it hangs")

    def _become(self, state: AttemptState) -> None:
        """Go over to `state` where `TRANSITIONS` allow it."""
        if state not in TRANSITIONS[self._state]:
            return
        if self._state is RUNNING:
            self._stop_by = time.monotonic() + self.settings.grace
            ends = self.attempt.resumable and state is not ABANDONED
            self.process.send(messages.Stop(state is DRAINING or ends, show=ends and state is not DRAINING))
        self._state = state

    def _too_long(self) -> Failed:
        limit = f"the job ran for longer than {self.settings.job_timeout:g} s"
        error = DeadlineExceeded(limit, reason="JOB_TIMEOUT")
        return Failed(to_status(error).SerializeToString(deterministic=True))

    def _note(self, event: messages.Event) -> None:
        if isinstance(event, messages.Progress):
            self._progress = event
        elif isinstance(event, messages.Saved):
            header = TensorHeader.FromString(event.artifact)
            self._artifacts[header.name] = header
            self._artifacts_written = False
        elif isinstance(event, messages.Checkpointed):
            self._keep(event.digest)
            self.metrics.checkpointed(event.seconds)
            self._span.add_event("checkpoint", {"convlens.seconds": event.seconds})

    def _keep(self, checkpoint: str) -> None:
        """Until Redis can be told; of more than two only the first and the last."""
        if checkpoint not in self._checkpoints:
            if len(self._checkpoints) > 1:
                self._drop([self._checkpoints.pop()])
            self._checkpoints.append(checkpoint)

    def _report(self) -> None:
        """Renew the lease, write what is new, and learn whether the job is still this attempt's."""
        if self._state in (CANCELLED, ABANDONED):
            return
        with suppress(*AWAY):
            self._write_checkpoint()
            status = self._write_progress()
            if status.cancel_requested or status.lost:  # Lost it may be by the cancel whose reply was lost.
                ended = self.store.fail(self.attempt, Cancelled("cancelled"))
                self._become(CANCELLED if ended else ABANDONED)

    def _write_checkpoint(self) -> None:
        while self._checkpoints:
            dropped = self.store.checkpoint(self.attempt, self._checkpoints[0])
            if dropped is None:
                return
            del self._checkpoints[0]
            self._drop([dropped] if dropped else [])

    def _write_progress(self) -> LeaseStatus:
        progress, fields = self._progress, dict[str, str | int | bytes]()
        if progress is not None:
            fields = {
                "step": progress.step,
                "total_steps": progress.total,
                "losses": json.dumps(dict(progress.losses)),
                "bit_exact": int(progress.bit_exact),
                "remaining_seconds": "" if progress.remaining is None else f"{progress.remaining:.3f}",
            }
        if not self._artifacts_written:
            made = job_pb2.JobResult(artifacts=self._artifacts.values())
            fields["artifacts"] = made.SerializeToString(deterministic=True)
        status = self.store.update(self.attempt, fields, progress.preview if progress else b"")
        if not status.lost:
            self._progress, self._artifacts_written = None, True
        return status

    def _insist(self, write: Callable[[], None]) -> None:
        """Write; while Redis is away, again and again, when draining for no longer than the grace."""
        until = time.monotonic() + self.settings.grace
        while time.monotonic() < until or not self.draining():
            try:
                return write()
            except AWAY as error:
                log.warning("%s", error, extra={"operation": self.attempt.id})
                time.sleep(TICK)
        return None

    def _close(self, end: End) -> None:
        """Write what is still to be written of the attempt, and tidy up after it."""
        if self._state is CANCELLED:
            self._leave()
        elif self._state is ABANDONED or not self._settle(end):
            return self.store.abandon(self.attempt)
        with suppress(*AWAY):  # What is left then is maintenance's.
            self.store.tidy(self.artifacts, self.attempt.id)
        return None

    def _settle(self, end: End) -> bool:
        self._write_checkpoint()
        self._write_progress()
        return self._write(end)

    def _leave(self) -> None:
        """Write what the device process still had when the job was cancelled."""
        checkpoint = self._checkpoints[-1] if self._checkpoints else ""
        artifacts = () if self._artifacts_written else tuple(self._artifacts.values())
        if (checkpoint or artifacts) and not self.store.leave(self.attempt, checkpoint, artifacts):
            self._drop(self._checkpoints)  # The job may be gone by now, and with it what could name them.

    def _write(self, end: End) -> bool:
        match end:
            case Finished(result):
                return self.store.succeed(self.attempt, job_pb2.JobResult.FromString(result))
            case Failed(status):
                return self.store.fail(self.attempt, from_status(Status.FromString(status)))
            case Stopped():
                return self.store.requeue(self.attempt, crashed=False)
            case Died():
                return self.store.requeue(self.attempt, crashed=True)

    def _drop(self, checkpoints: Iterable[str]) -> None:
        for digest in checkpoints:
            with suppress(Unavailable):
                self.artifacts.drop(self.attempt.id, "checkpoints", digest)
