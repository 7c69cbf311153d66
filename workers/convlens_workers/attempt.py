"""One attempt at a job, seen from the supervisor: from its start in the engine to its end in the record."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from google.rpc.status_pb2 import Status

from convlens.errors import Cancelled, DeadlineExceeded, Unavailable, from_status, to_status
from convlens.v1 import job_pb2
from convlens_workers.device_process_handle import DeviceProcessHandle
from convlens_workers.jobs.artifacts import ArtifactStore
from convlens_workers.jobs.redis_errors import AWAY
from convlens_workers.jobs.worker_job_store import Attempt, LeaseStatus, WorkerJobStore
from convlens_workers.messages import (
    Checkpointed,
    Died,
    End,
    Event,
    Failed,
    Finished,
    Progress,
    Start,
    Stop,
    Stopped,
)
from convlens_workers.metrics import Metrics
from convlens_workers.settings import WorkerSettings
from convlens_workers.spans import ended, spanning

TICK: Final = 0.2
"""Seconds between looks at the record: what a cancel, or the loss of the job, may take to be seen."""

log = logging.getLogger(__name__)


class Run:
    """Follows the engine through one attempt, and keeps the record.

    While Redis is away the engine works on: the latest progress and checkpoint are written when Redis is
    back, and so is the end. Once the job is lost to another attempt, nothing is written any more.
    """

    def __init__(
        self,
        attempt: Attempt,
        *,
        engine: DeviceProcessHandle,
        ledger: WorkerJobStore,
        artifacts: ArtifactStore,
        settings: WorkerSettings,
        draining: Callable[[], bool],
        metrics: Metrics,
    ) -> None:
        self._attempt = attempt
        self._engine = engine
        self._ledger = ledger
        self._artifacts = artifacts
        self._settings = settings
        self._draining = draining
        self._metrics = metrics
        self._progress: Progress | None = None
        self._checkpoints: list[str] = []
        """Stored, and not known to be written: of the first Redis may have been told, of the second not."""
        self._abandoned = False
        self._overdue = False
        self._stopped_at: float | None = None
        self._began = time.monotonic()

    def run(self) -> None:
        """From Start to the end in the record, or until the job is lost."""
        with spanning(self._attempt, self._engine.device) as self._span:
            self._run(self._attempt)

    def _run(self, attempt: Attempt) -> None:
        self._metrics.began()
        self._engine.send(Start(attempt.id, attempt.request, attempt.checkpoints))
        end = self._follow()
        why = end.reason if isinstance(end, Died) else ""
        how = type(end).__name__
        extra = {"operation": attempt.id, "attempt": attempt.number, "why": why}
        log.info("attempt ended: %s", how, extra=extra)
        self._metrics.ended(how.lower())
        ended(self._span, how.lower(), why, failed=isinstance(end, Failed | Died))
        if isinstance(end, Died):
            self._engine.kill()
        if not self._abandoned:
            self._settle(self._too_long() if self._overdue and not isinstance(end, Finished) else end)

    def _follow(self) -> End:
        heard = time.monotonic()
        while True:
            event = self._engine.receive(TICK)
            now = time.monotonic()
            if isinstance(event, End):
                return event
            if event is not None:
                heard = now
                self._note(event)
            self._report()
            if self._draining():
                self._stop(save=True)
            if self._ran_for(now) > self._settings.job_timeout:
                self._overdue = True
                self._stop(save=False)
            if self._stopped_at is not None and now - self._stopped_at > self._settings.grace:
                return Died("it did not stop") if self._abandoned or self._overdue else Stopped()
            if now - heard > self._settings.hang_timeout:
                return Died("it hangs")

    def _ran_for(self, now: float) -> float:
        return self._attempt.ran + now - self._began

    def _too_long(self) -> Failed:
        limit = f"the job ran for longer than {self._settings.job_timeout:g} s"
        error = DeadlineExceeded(limit, reason="JOB_TIMEOUT")
        return Failed(to_status(error).SerializeToString(deterministic=True))

    def _note(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._progress = event
        elif isinstance(event, Checkpointed):
            self._keep(event.digest)
            self._metrics.checkpointed(event.seconds)
            self._span.add_event("checkpoint", {"convlens.seconds": event.seconds})

    def _keep(self, checkpoint: str) -> None:
        """Until Redis can be told; of more than two only the first and the last."""
        if checkpoint not in self._checkpoints:
            if len(self._checkpoints) > 1:
                self._drop([self._checkpoints.pop()])
            self._checkpoints.append(checkpoint)

    def _report(self) -> None:
        """Renew the lease, write what is new, and learn how things stand."""
        if self._abandoned:
            return
        with suppress(*AWAY):
            self._write_checkpoint()
            standing = self._write_progress()
            if standing.cancel_requested:
                self._drop(self._ledger.fail(self._attempt, Cancelled("cancelled")))
            if standing.lost or standing.cancel_requested:
                self._abandoned = True
                self._stop(save=False)

    def _write_checkpoint(self) -> None:
        while self._checkpoints:
            dropped = self._ledger.checkpoint(self._attempt, self._checkpoints[0])
            del self._checkpoints[0]
            self._drop([dropped] if dropped else [])

    def _write_progress(self) -> LeaseStatus:
        progress = self._progress
        if progress is None:
            return self._ledger.update(self._attempt)
        fields: dict[str, str | int] = {
            "step": progress.step,
            "total_steps": progress.total,
            "losses": json.dumps(dict(progress.losses)),
            "bit_exact": int(progress.bit_exact),
        }
        standing = self._ledger.update(self._attempt, fields, progress.preview)
        self._progress = None
        return standing

    def _stop(self, *, save: bool) -> None:
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self._engine.send(Stop(save))

    def _settle(self, end: End) -> None:
        """Write the end; while Redis is away, again and again, when draining for no longer than the grace."""
        until = time.monotonic() + self._settings.grace
        while time.monotonic() < until or not self._draining():
            try:
                self._write_checkpoint()
                self._write_progress()
                return self._drop(self._write(end))
            except AWAY as error:
                log.warning("%s", error, extra={"operation": self._attempt.id})
                time.sleep(TICK)
        return None

    def _write(self, end: End) -> list[str] | None:
        match end:
            case Finished(result):
                return self._ledger.succeed(self._attempt, job_pb2.JobResult.FromString(result))
            case Failed(status):
                return self._ledger.fail(self._attempt, from_status(Status.FromString(status)))
            case Stopped():
                return self._ledger.requeue(self._attempt, crashed=False)
            case Died():
                return self._ledger.requeue(self._attempt, crashed=True)

    def _drop(self, checkpoints: list[str] | None) -> None:
        for digest in checkpoints or ():
            with suppress(Unavailable):
                self._artifacts.drop(self._attempt.id, "checkpoints", digest)
