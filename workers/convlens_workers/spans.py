"""An attempt at a job as a span of the trace that submitted the job."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from convlens_workers.jobs.worker_job_store import Attempt
from convlens_workers.telemetry.tracing import following

tracer: Final = trace.get_tracer("convlens.worker")


@contextmanager
def spanning(attempt: Attempt, device: str) -> Iterator[Span]:
    """The span of an attempt, current while it lasts; a first one's wait in the queue is a span too."""
    parent, now = following(attempt.trace), time.time_ns()
    if attempt.number == 1:
        tracer.start_span("queue", parent, start_time=now - int(attempt.waited * 1e9)).end(now)
    attributes: dict[str, str | int] = {
        "convlens.operation": attempt.id,
        "convlens.technique": attempt.technique,
        "convlens.attempt": attempt.number,
        "convlens.device": device,
    }
    with tracer.start_as_current_span("attempt", parent, SpanKind.CONSUMER, attributes) as span:
        yield span


def ended(span: Span, how: str, why: str, *, failed: bool) -> None:
    """Record on the span how the attempt has ended, and why."""
    span.set_attributes({"convlens.end": how, "convlens.why": why})
    if failed:
        span.set_status(Status(StatusCode.ERROR, why or how))
