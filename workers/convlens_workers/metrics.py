"""The Prometheus metrics of a worker, beside those of its queue."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, Summary

from convlens_workers.jobs.stats import QueueCollector, serve_metrics
from convlens_workers.jobs.worker_job_store import WorkerJobStore

ENDS: Final = ("finished", "failed", "stopped", "died")


class Metrics:
    """Attempts and checkpoints of one worker, and what its processes take of the machine.

    Args:
        store: of the worker's queue.
        device_process: gives the id of the device process that runs now; 0 for none.
    """

    def __init__(self, store: WorkerJobStore, device_process: Callable[[], int] = lambda: 0) -> None:
        registry = self.registry = CollectorRegistry()
        registry.register(QueueCollector(lambda: [store.stats()]))
        ProcessCollector(registry=registry)
        ProcessCollector("convlens_engine", device_process, registry=registry)
        self._safe_since: float | None = None
        self._ends = Counter("convlens_attempts", "Attempts, by how they ended.", ["end"], registry=registry)
        for how in ENDS:
            self._ends.labels(how)
        busy = "1 while a job runs; the sum is the workers at work."
        Gauge("convlens_worker_busy", busy, registry=registry).set_function(
            lambda: self._safe_since is not None
        )
        self._cost = Summary("convlens_checkpoint_seconds", "What checkpoints have cost.", registry=registry)
        age = "What a crash would cost the running job; 0 when idle."
        Gauge("convlens_checkpoint_age_seconds", age, registry=registry).set_function(self._age)

    def began(self) -> None:
        """Count an attempt as running from now on."""
        self._safe_since = time.monotonic()

    def checkpointed(self, seconds: float) -> None:
        """Note a stored checkpoint, which took `seconds`."""
        self._safe_since = time.monotonic()
        self._cost.observe(seconds)

    def ended(self, how: str) -> None:
        """Count the end of an attempt by `how` it ended, one of `ENDS`."""
        self._safe_since = None
        self._ends.labels(how).inc()

    def serve(self, listen: str) -> Callable[[], None]:
        """Serve the metrics on "host:port", unless that is empty; gives the function that ends it."""
        return serve_metrics(listen, self.registry) if listen else lambda: None

    def _age(self) -> float:
        since = self._safe_since
        return 0.0 if since is None else time.monotonic() - since
