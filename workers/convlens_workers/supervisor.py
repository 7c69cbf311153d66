"""The supervisor: an RQ worker that gives each job to its device process, and survives what may happen.

Of RQ it takes the queue, the registration and the heartbeat. It overrules RQ where jobs are safer otherwise:
no fork for each job, no commands by pub/sub, no sweep of RQ's registries (ours is `WorkerJobStore.sweep`), no
end when Redis is away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, Worker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import WorkerStatus

from convlens_workers.attempt import AttemptRunner
from convlens_workers.device_process_handle import DeviceProcessHandle
from convlens_workers.jobs import redis_errors
from convlens_workers.jobs.artifacts import ArtifactStore
from convlens_workers.jobs.job import QueuedJob
from convlens_workers.jobs.worker_job_store import WorkerJobStore
from convlens_workers.maintenance import Maintenance
from convlens_workers.messages import Configure
from convlens_workers.metrics import Metrics
from convlens_workers.settings import WorkerSettings

AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.OutOfMemoryError)
WORKER_TTL = 20

log = logging.getLogger(__name__)


class Supervisor(Worker):
    """Takes jobs from one queue, one at a time; imports no torch."""

    job_class = QueuedJob
    max_connection_wait_time = 1.0

    def __init__(self, settings: WorkerSettings) -> None:
        connection = Redis.from_url(settings.redis, socket_connect_timeout=2.0)
        super().__init__(
            [Queue(settings.queue, connection=connection, job_class=QueuedJob, serializer=JSONSerializer)],
            connection=connection,
            worker_ttl=WORKER_TTL,
            serializer=JSONSerializer,
        )
        self._settings = settings
        self._artifacts = ArtifactStore(settings.artifacts_url())
        retry = Retry(NoBackoff(), 1)  # Pooled connections outlive a Redis.
        quick = Redis.from_url(settings.redis, socket_connect_timeout=1.0, socket_timeout=2.0, retry=retry)
        self._store = WorkerJobStore(quick, settings, settings.lease)
        self._metrics = Metrics(self._store, lambda: self.device_process.pid)
        self._end_metrics: Callable[[], None] = lambda: None
        config = Configure(
            models=settings.models,
            artifacts=settings.artifacts_url(),
            device=settings.device,
            checkpoint_interval=settings.checkpoint_interval,
            warm_models=settings.warm_models,
            victims=settings.victims,
            folders=settings.training_folders,
        )
        self.device_process = DeviceProcessHandle(config, settings.log_level, settings.log_format)
        self._maintenance = Maintenance(self._store, self._artifacts, settings, self.heartbeat)

    @property
    def draining(self) -> bool:
        """True once a signal has asked for the end."""
        return self._stop_requested

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Start the device process, register at RQ, start maintenance and metrics, and log "ready"."""
        self._install_signal_handlers()  # type: ignore[no-untyped-call]
        self.device_process.ensure()
        super().bootstrap(*args, **kwargs)
        self._maintenance.start()
        self._end_metrics = self._metrics.serve(self._settings.metrics_listen)
        log.info("ready", extra={"device": self.device_process.device, "queue": self._settings.queue})

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Claim the job, run it in the device process, and write its end."""
        self.set_state(WorkerStatus.BUSY)  # From here on a signal lets the job be given back.
        self.device_process.ensure()
        attempt = None
        with suppress(*redis_errors.AWAY):  # The sweep brings the job back.
            attempt = self._store.claim(job.id, self.device_process.device)
        if attempt is not None:
            AttemptRunner(
                attempt,
                process=self.device_process,
                store=self._store,
                artifacts=self._artifacts,
                settings=self._settings,
                draining=lambda: self.draining,
                metrics=self._metrics,
            ).run()
        if not self.draining:
            self.device_process.ensure()
        self.set_state(WorkerStatus.IDLE)

    def dequeue_job_and_maintain_ttl(self, *args: Any, **kwargs: Any) -> tuple[Job, Queue] | None:
        """As RQ's, but a full Redis is waited for as one that is away."""
        while True:
            try:
                return super().dequeue_job_and_maintain_ttl(*args, **kwargs)
            except exceptions.OutOfMemoryError as error:
                log.warning("Redis is full: %s", error)
                time.sleep(self.max_connection_wait_time)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """On SIGTERM and SIGINT: end now when idle, else after a checkpoint; a second one changes nothing."""
        if self._stop_requested:
            return
        self._stop_requested = True
        if self.get_state() != WorkerStatus.BUSY:
            raise StopRequested

    def teardown(self) -> None:
        """End maintenance, metrics and the device process, and unregister at RQ."""
        self._maintenance.stop()
        self._end_metrics()
        self.device_process.kill()
        with suppress(*AWAY):
            self.register_death()  # type: ignore[no-untyped-call]

    def run_maintenance_tasks(self) -> None:
        """RQ's sweeps are unfenced, and find nothing of ours: the thread does what is needed."""
        self.last_cleaned_at = now()  # type: ignore[assignment]

    def subscribe(self) -> None:
        """RQ's commands come by pub/sub, and may get lost: records and signals tell the worker all."""

    def unsubscribe(self) -> None:
        """Do nothing: `subscribe` has not subscribed."""

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        """As RQ's, but Redis may be away."""
        with suppress(*AWAY):
            super().heartbeat(*args, **kwargs)

    def set_state(self, *args: Any, **kwargs: Any) -> None:
        """As RQ's, but Redis may be away."""
        with suppress(*AWAY):
            super().set_state(*args, **kwargs)

    def check_for_suspension(self, *args: Any, **kwargs: Any) -> None:
        """As RQ's, but Redis may be away."""
        with suppress(*AWAY):
            super().check_for_suspension(*args, **kwargs)
