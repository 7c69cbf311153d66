"""A span for every call, within the client's trace where it names one, with the phases as its children."""

from __future__ import annotations

import time
from typing import Any, Final

import grpc
from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from convlens_server.serving.request_context import Proceed, RequestContext
from convlens_workers.telemetry.tracing import following

OURS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
"""Codes that are the server's failures, as OpenTelemetry sees it."""

tracer = trace.get_tracer("convlens.server")


async def traced(call: RequestContext, proceed: Proceed) -> Any:
    """The span of a call; its parent comes as metadata `traceparent`."""
    parent = following(call.header("traceparent"), call.header("tracestate"))
    span = tracer.start_span(call.method.lstrip("/"), parent, SpanKind.SERVER)
    context.attach(trace.set_span_in_context(span, parent))  # The call's task ends with the call.
    try:
        return await proceed(call)
    finally:
        if span.is_recording():
            _describe(span, call)
        span.end()


def _describe(span: Span, call: RequestContext) -> None:
    service, _, method = call.method.lstrip("/").partition("/")
    span.set_attributes(
        {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "rpc.grpc.status_code": grpc.StatusCode[call.code].value[0],
            "convlens.request_id": call.id,
            "convlens.tenant": call.principal.tenant if call.principal else "",
            **{f"convlens.{phase}_seconds": seconds for phase, seconds in call.phases.items()},
        }
    )
    if call.code in OURS:
        span.set_status(Status(StatusCode.ERROR, call.code))
    zero = time.time_ns() - int(time.perf_counter() * 1e9)
    for phase, began, ended in call.intervals:
        child = tracer.start_span(phase, start_time=zero + int(began * 1e9))
        child.end(zero + int(ended * 1e9))
