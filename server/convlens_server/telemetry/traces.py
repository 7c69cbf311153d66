"""A span for every call, within the client's trace where it names one, with the phases as its children."""

from __future__ import annotations

import time
from typing import Any, Final

import grpc
from opentelemetry import trace
from opentelemetry.context import attach
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from convlens_server.identity.principal import principal
from convlens_server.request.request_context import Proceed, RequestContext
from convlens_workers.telemetry.tracing import following

OURS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
"""Status codes that OpenTelemetry counts as failures of the server."""

tracer = trace.get_tracer("convlens.server")


async def traced(context: RequestContext, proceed: Proceed) -> Any:
    """Record a call as a span, whose parent comes as metadata `traceparent`."""
    parent = following(context.header("traceparent"), context.header("tracestate"))
    span = tracer.start_span(context.method.lstrip("/"), parent, SpanKind.SERVER)
    attach(trace.set_span_in_context(span, parent))  # The call's task ends with the call.
    try:
        return await proceed(context)
    finally:
        if span.is_recording():
            _describe(span, context)
        span.end()


def _describe(span: Span, context: RequestContext) -> None:
    service, _, method = context.method.lstrip("/").partition("/")
    span.set_attributes(
        {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "rpc.grpc.status_code": grpc.StatusCode[context.code].value[0],
            "convlens.request_id": context.id,
            "convlens.tenant": principal().tenant,
            **{f"convlens.{phase}_seconds": seconds for phase, seconds in context.phases.items()},
        }
    )
    if context.code in OURS:
        span.set_status(Status(StatusCode.ERROR, context.code))
    zero = time.time_ns() - int(time.perf_counter() * 1e9)
    for phase, began, ended in context.intervals:
        child = tracer.start_span(phase, start_time=zero + int(began * 1e9))
        child.end(zero + int(ended * 1e9))
