"""Traces of servers and workers: W3C trace context in, spans out as the standard OTEL_* environment says.

Without the OpenTelemetry SDK (extra `otel`), or where no exporter is named, spans are not recorded, but the
ids of a client's trace still reach the logs and the workers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from threading import Thread
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

WANTED_BY: Final = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)
"""One of them must be set: the standard's default, a collector on this machine, is rarely there."""
OTLP: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
LAST_WORDS: Final = 2.0
"""Seconds for sending what is left at the end."""
W3C: Final = TraceContextTextMapPropagator()

log = logging.getLogger("convlens.tracing")


@contextmanager
def exporting(service: str) -> Iterator[None]:
    """Export spans while within, if the environment wants it; what is left is sent at the end.

    Args:
        service: its name where OTEL_SERVICE_NAME has none.
    """
    end = _start(service) if _wanted() else None
    try:
        yield
    finally:
        if end is not None:
            end()


def traceparent() -> str:
    """The current span as a W3C header; "" where there is none."""
    carrier: dict[str, str] = {}
    W3C.inject(carrier)
    return carrier.get("traceparent", "")


def following(parent: str, state: str = "") -> Context:
    """The context in which a span follows that of a W3C header; a new trace where that is not one."""
    return W3C.extract({"traceparent": parent, "tracestate": state} if parent else {}, Context())


def _wanted() -> bool:
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not disabled and any(os.environ.get(name) for name in WANTED_BY)


def _start(service: str) -> Callable[[], None] | None:
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 (an extra)
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning("no traces: OTEL_* asks for them, but they need pip install 'convlens[otel]'")
        return None
    os.environ.setdefault("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create(), shutdown_on_exit=False)
    for name in _exporters():
        exporter = next(iter(entry_points(group="opentelemetry_traces_exporter", name=name)), None)
        if exporter is None:
            log.warning("no traces: the exporter %r is not installed", name)
        else:
            provider.add_span_processor(BatchSpanProcessor(exporter.load()()))
    trace.set_tracer_provider(provider)
    return lambda: _within(LAST_WORDS, provider.shutdown)


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Do it, but go on after `seconds`: a collector that is away must not hold up the end of the process."""
    thread = Thread(target=work, name="last spans", daemon=True)
    thread.start()
    thread.join(seconds)


def _exporters() -> list[str]:
    names = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    named = [name.strip() for name in names.split(",") if name.strip() not in ("", "none")]
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", protocol)
    return [OTLP.get(protocol, name) if name == "otlp" else name for name in named]
