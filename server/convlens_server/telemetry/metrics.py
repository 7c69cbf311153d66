"""The metrics that Prometheus reads: calls as go-grpc-prometheus names them, phases, and how full it is.

    grpc_server_started_total{grpc_type, grpc_service, grpc_method}
    grpc_server_handled_total{..., grpc_code}     grpc_code as Go writes it: OK, InvalidArgument, Canceled
    grpc_server_handling_seconds{...}             histogram
    convlens_phase_seconds{phase}                 histogram; one of PHASES
    convlens_cache_requests_total{result}         calls looked up in the response cache; hit, miss, error
    convlens_refused_total{reason}                calls and jobs refused with RESOURCE_EXHAUSTED, and why

A call to a method that does not exist reaches no middleware, so that nobody can invent label values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.registry import Collector

from convlens_server.request.request_context import Proceed, RequestContext, afterwards
from convlens_workers.jobs.stats import serve_metrics

TYPES: Final = {
    "unary_unary": "unary",
    "unary_stream": "server_stream",
    "stream_unary": "client_stream",
    "stream_stream": "bidi_stream",
}
PHASES: Final = ("queue", "cache", "decode", "compute", "encode")
CALL_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 300),
)
"""The upper bounds of the buckets, in seconds."""
PHASE_BUCKETS: Final = (0.0001, 0.0005, *CALL_BUCKETS[:-2])
RESULTS: Final = ("hit", "miss", "error")
REASONS: Final = (
    *("QUEUE_FULL", "QUEUE_BYTES", "QUEUE_LONG", "DEADLINE", "STREAMS", "BATCH_QUEUE"),
    *("LONG_CALLS", "JOB_QUEUE_FULL"),
    *("CALLS", "UPLOAD_BYTES", "REPLY_BYTES", "SLOW_READER", "OUT_OF_MEMORY"),
    *("TENANT_RATE", "TENANT_CALLS", "TENANT_LIMIT"),
)
"""Reasons that are shown before the first refusal, as methods are before their first call."""
METHOD: Final = ("grpc_type", "grpc_service", "grpc_method")


class Metrics:
    """The one registry of a server, and the middleware that fills it."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        counter, histogram = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        self._started = counter("grpc_server_started", "Calls begun.", METHOD)
        self._handled = counter(
            "grpc_server_handled", "Calls ended, by their status.", (*METHOD, "grpc_code")
        )
        text = "From a call's begin to its end."
        self._seconds = histogram("grpc_server_handling_seconds", text, METHOD, buckets=CALL_BUCKETS)
        text = "What a call spent in a phase, all its parts together."
        self._phases = histogram("convlens_phase_seconds", text, ["phase"], buckets=PHASE_BUCKETS)
        self._cache = counter("convlens_cache_requests", "Calls looked up in the response cache.", ["result"])
        self._refused = counter("convlens_refused", "Refused for want of room.", ["reason"])
        self._in_flight = Gauge("convlens_calls_in_flight", "Calls that have not ended.", registry=registry)
        for metric, values in ((self._phases, PHASES), (self._cache, RESULTS), (self._refused, REASONS)):
            for value in values:
                metric.labels(value)
        self._child = lru_cache(maxsize=1024)(lambda metric, *labels: metric.labels(*labels))

    def expect(self, services: Iterable[str]) -> None:
        """Show the methods of these services before the first call, so that it is seen as an increase."""
        for service in services:
            for method in descriptor_pool.Default().FindServiceByName(service).methods:
                labels = (TYPES[_kind(method)], service, method.name)
                self._started.labels(*labels)
                self._handled.labels(*labels, "OK")

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a value that is read at each scrape, in the thread that serves the metrics."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def collect(self, collector: Collector) -> None:
        """Show the metrics of a collector too."""
        self.registry.register(collector)

    def serve(self, listen: str) -> Callable[[], None]:
        """Serve the metrics on "host:port", unless that is empty; returns the function that ends it."""
        return serve_metrics(listen, self.registry) if listen else lambda: None

    async def middleware(self, context: RequestContext, proceed: Proceed) -> Any:
        """Count a call, its seconds, and those of its phases."""
        labels = _labels(context.method, context.kind)
        self._child(self._started, *labels).inc()
        self._in_flight.inc()
        try:
            return await proceed(context)
        finally:
            afterwards(self._count, context, context.seconds, labels)

    def _count(self, context: RequestContext, seconds: float, labels: tuple[str, str, str]) -> None:
        child = self._child
        self._in_flight.dec()
        child(self._handled, *labels, go_name(context.code)).inc()
        child(self._seconds, *labels).observe(seconds)
        for name, spent in context.phases.items():
            child(self._phases, name).observe(spent)
        if context.cache:
            child(self._cache, context.cache).inc()
        if context.code == "RESOURCE_EXHAUSTED":
            child(self._refused, context.reason).inc()


@lru_cache(maxsize=256)
def _labels(method: str, kind: str) -> tuple[str, str, str]:
    service, _, name = method.lstrip("/").partition("/")
    return TYPES[kind], service, name


def go_name(code: str) -> str:
    """A status code as the Go library, and so every dashboard, writes it: "InvalidArgument"."""
    return {"OK": "OK", "CANCELLED": "Canceled"}.get(code) or code.title().replace("_", "")


def _kind(method: MethodDescriptor) -> str:
    sides = (method.client_streaming, method.server_streaming)
    return "_".join("stream" if streams else "unary" for streams in sides)
