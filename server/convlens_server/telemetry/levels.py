"""How full the server is, as Prometheus asks at each scrape."""

from __future__ import annotations

from convlens_server.backends.models import LoadedModels
from convlens_server.serving.executor import Executor
from convlens_server.serving.health import Health
from convlens_server.telemetry.metrics import Metrics


def watch(metrics: Metrics, *, health: Health, executor: Executor, lanes: int, models: LoadedModels) -> None:
    """Let `metrics` tell how ready, how busy and how full these are."""
    for name, text, read in (
        ("convlens_ready", "Whether the server takes calls.", lambda: health.is_ready),
        ("convlens_lanes", "Calls that may compute at the same time.", lambda: lanes),
        ("convlens_calls_computing", "Calls in a lane.", lambda: min(executor.busy, lanes)),
        ("convlens_calls_waiting", "Calls that wait for a lane.", lambda: max(0, executor.busy - lanes)),
        ("convlens_wait_seconds", "What a call that came now would wait.", lambda: executor.wait),
        ("convlens_models_loaded", "Versions of models in memory.", lambda: len(models.loaded())),
        ("convlens_session_bytes", "What sessions hold of their own.", lambda: _weight(models)),
    ):
        metrics.gauge(name, text, read)


def _weight(models: LoadedModels) -> float:
    return sum(weight for *_, weight in models.sessions.held())
