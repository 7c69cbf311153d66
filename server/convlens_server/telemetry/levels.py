"""Gauges of how full the server is, which Prometheus reads at each scrape."""

from __future__ import annotations

from convlens_server.backends.models import LoadedModels
from convlens_server.serving.executor import Executor
from convlens_server.serving.health import Health
from convlens_server.telemetry.metrics import Metrics


def watch(metrics: Metrics, *, health: Health, executor: Executor, models: LoadedModels) -> None:
    """Have `metrics` show how ready, how busy and how full these are."""
    threads, sessions = executor.worker_threads, models.sessions
    for name, text, read in (
        ("convlens_ready", "Whether the server takes calls.", lambda: health.is_ready),
        ("convlens_lanes", "Calls that may compute at the same time.", lambda: threads),
        ("convlens_calls_computing", "Calls in a lane.", lambda: min(executor.busy, threads)),
        ("convlens_calls_waiting", "Calls that wait for a lane.", lambda: max(0, executor.busy - threads)),
        ("convlens_wait_seconds", "What a call that came now would wait.", lambda: executor.wait),
        ("convlens_models_loaded", "Versions of models in memory.", lambda: len(models.loaded())),
        (
            "convlens_session_bytes",
            "What sessions hold of their own.",
            lambda: sum(weight for *_, weight in sessions.held()),
        ),
    ):
        metrics.gauge(name, text, read)
