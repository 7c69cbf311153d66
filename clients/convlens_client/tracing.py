"""The trace that a call belongs to: W3C trace context, for programs that use OpenTelemetry."""

from __future__ import annotations

import sys


def trace_headers() -> tuple[tuple[str, str], ...]:
    """The current span as metadata; nothing where there is none.

    A program that has not imported OpenTelemetry has no span, so that it is not even looked for.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())
