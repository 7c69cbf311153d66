"""The supervisor: an RQ worker that gives each job to its device process, and survives what may happen.

Of RQ it takes the queue, the registration and the heartbeat. It overrules RQ where jobs are safer otherwise:
no fork for each job, no commands by pub/sub, no sweep of RQ's registries (ours is `WorkerJobStore.sweep`).

RQ's loop ends when Redis refuses a command. Here nothing that Redis refuses ends a worker: what RQ only notes
for its own lists is left out (`_unless_refused`), jobs are asked for until Redis gives one, and a running job
goes on meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Any, Final

from redis import exceptions
from rq import Queue, Worker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import WorkerStatus

from convlens.errors import DataLoss
from convlens_workers.attempt import AttemptRunner
from convlens_workers.device_process_handle import DeviceProcessHandle
from convlens_workers.jobs.artifacts import ArtifactStore
from convlens_workers.jobs.connection import connect_worker
from convlens_workers.jobs.job import QueuedJob
from convlens_workers.jobs.redis_errors import AWAY, redis_errors
from convlens_workers.jobs.worker_job_store import WorkerJobStore
from convlens_workers.maintenance import Maintenance
from convlens_workers.messages import Configure
from convlens_workers.metrics import Metrics
from convlens_workers.settings import WorkerSettings

WORKER_TTL: Final = 20
PAUSE: Final = 1.0
"""Seconds between tries at a Redis that refuses what the worker needs."""

log = logging.getLogger(__name__)


def _unless_refused(method: Callable[..., None]) -> Callable[..., None]:
    """A method of RQ's that changes nothing but what RQ tells of workers: left out where Redis refuses it."""

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except exceptions.RedisError as error:
            log.debug("%s left out: %s", method.__name__, error)

    return call


class Supervisor(Worker):
    """Takes jobs from one queue, one at a time; imports no torch."""

    job_class = QueuedJob
    max_connection_wait_time = PAUSE

    set_state = _unless_refused(Worker.set_state)
    check_for_suspension = _unless_refused(Worker.check_for_suspension)
    register_death = _unless_refused(Worker.register_death)

    def __init__(self, settings: WorkerSettings) -> None:
        connection = connect_worker(settings.redis, socket_connect_timeout=2.0)
        super().__init__(
            [Queue(settings.queue, connection=connection, job_class=QueuedJob, serializer=JSONSerializer)],
            connection=connection,
            worker_ttl=WORKER_TTL,
            serializer=JSONSerializer,
        )
        self._settings = settings
        self._registered = False
        self._artifacts = ArtifactStore(settings.artifacts_url())
        quick = connect_worker(settings.redis, socket_connect_timeout=1.0, socket_timeout=2.0)
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
        try:
            self._attempt(job)
        except (*AWAY, DataLoss) as error:  # The sweep brings the job back, or gives it up.
            log.warning("%s", error, extra={"operation": job.id})
        except exceptions.RedisError:  # The same; and nobody follows what the device process does.
            log.exception("attempt given up", extra={"operation": job.id})
            self.device_process.kill()
        if not self.draining:
            self.device_process.ensure()
        self.set_state(WorkerStatus.IDLE)

    def _attempt(self, job: Job) -> None:
        attempt = self._store.claim(job.id, self.device_process.device)
        if attempt is None:
            return
        AttemptRunner(
            attempt,
            process=self.device_process,
            store=self._store,
            artifacts=self._artifacts,
            settings=self._settings,
            draining=lambda: self.draining,
            metrics=self._metrics,
        ).run()

    def dequeue_job_and_maintain_ttl(self, *args: Any, **kwargs: Any) -> tuple[Job, Queue] | None:
        """As RQ's, but whatever Redis refuses is asked for again, until a signal ends the worker."""
        while True:
            try:
                with redis_errors():
                    return super().dequeue_job_and_maintain_ttl(*args, **kwargs)
            except (*AWAY, exceptions.RedisError) as error:
                log.warning("%s; trying again", error)
                time.sleep(PAUSE)

    @_unless_refused
    def register_birth(self) -> None:
        """As RQ's; of this name there are only notes of this worker's own, made before it was registered."""
        self.connection.delete(self.key)
        super().register_birth()  # type: ignore[no-untyped-call]
        self._registered = True

    @_unless_refused
    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        """As RQ's; a worker whose registration was refused is registered instead."""
        if self._registered:
            super().heartbeat(*args, **kwargs)
        else:
            self.register_birth()

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
        self.register_death()

    def run_maintenance_tasks(self) -> None:
        """RQ's sweeps are unfenced, and find nothing of ours: the thread does what is needed."""
        self.last_cleaned_at = now()  # type: ignore[assignment]

    def subscribe(self) -> None:
        """RQ's commands come by pub/sub, and may get lost: records and signals tell the worker all."""

    def unsubscribe(self) -> None:
        """Do nothing: `subscribe` has not subscribed."""
