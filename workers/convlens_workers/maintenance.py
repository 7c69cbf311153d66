"""A thread beside the supervisor's: heartbeat, sweep after dead workers, removal of expired artifacts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from convlens_workers.jobs.artifacts import ArtifactStore
from convlens_workers.jobs.redis_errors import AWAY
from convlens_workers.jobs.worker_job_store import SWEEPS_A_LEASE, WorkerJobStore
from convlens_workers.settings import WorkerSettings

KEPT_LONGER: Final = timedelta(days=1)

log = logging.getLogger(__name__)


class Maintenance(threading.Thread):
    """Runs in every worker, idle or busy; what it does at once with others it still does once."""

    def __init__(
        self,
        store: WorkerJobStore,
        artifacts: ArtifactStore,
        settings: WorkerSettings,
        heartbeat: Callable[[], None],
    ) -> None:
        super().__init__(name="maintenance", daemon=True)
        self._store = store
        self._artifacts = artifacts
        self._interval = settings.lease / SWEEPS_A_LEASE
        self._kept = timedelta(seconds=settings.job_ttl) + KEPT_LONGER
        self._heartbeat = heartbeat
        self._ending = threading.Event()

    def run(self) -> None:
        """Do what is due, at once and until `stop`."""
        while True:
            try:
                self._heartbeat()
                for operation in self._store.sweep():
                    log.warning("its worker is gone: requeued or ended", extra={"operation": operation})
                self._store.tidy_due(self._artifacts)
                if self._store.may_tidy():
                    self.tidy()
            except AWAY as error:
                log.warning("%s", error)
            except Exception:
                log.exception("maintenance failed")
            if self._ending.wait(self._interval):
                break
        with suppress(*AWAY):
            self._store.withdraw()

    def tidy(self) -> None:
        """Remove the artifacts of jobs whose records have expired long since."""
        for operation in self._store.unknown(list(self._artifacts.idle(self._kept, datetime.now(UTC)))):
            self._artifacts.drop_all(operation)
            log.info("expired artifacts removed", extra={"operation": operation})

    def stop(self) -> None:
        """End the thread after what it is doing."""
        self._ending.set()
        if self.is_alive():
            self.join(timeout=5.0)
