"""What the server tells Prometheus: calls in the names of go-grpc-prometheus, phases, and how full it is.

    grpc_server_started_total{grpc_type, grpc_service, grpc_method}
    grpc_server_handled_total{..., grpc_code}     grpc_code as Go writes it: OK, InvalidArgument, Canceled
    grpc_server_handling_seconds{...}             histogram
    convlens_phase_seconds{phase}                 histogram; one of PHASES
    convlens_cache_requests_total{result}         calls looked up in the response cache; hit, miss, error
    convlens_refused_total{reason}                calls and jobs refused with RESOURCE_EXHAUSTED, and why

A call to a method that does not exist reaches no layer, so that nobody can invent label values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.registry import Collector

from convlens_server.serving.request_context import Proceed, RequestContext, afterwards
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
"""Upper bounds in seconds."""
PHASE_BUCKETS: Final = (0.0001, 0.0005, *CALL_BUCKETS[:-2])
RESULTS: Final = ("hit", "miss", "error")
REASONS: Final = (
    *("QUEUE_FULL", "QUEUE_BYTES", "QUEUE_LONG", "DEADLINE", "STREAMS", "BATCH_QUEUE"),
    *("LONG_CALLS", "JOB_QUEUE_FULL"),
    *("TENANT_RATE", "TENANT_CALLS", "TENANT_LIMIT"),
)
"""Those that are told before the first time, as are methods."""
METHOD: Final = ("grpc_type", "grpc_service", "grpc_method")


class Metrics:
    """The one registry of a server, and the layer that fills it."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._started = Counter("grpc_server_started", "Calls begun.", METHOD, registry=registry)
        self._handled = Counter(
            "grpc_server_handled", "Calls ended, by their status.", (*METHOD, "grpc_code"), registry=registry
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "From a call's begin to its end.",
            METHOD,
            registry=registry,
            buckets=CALL_BUCKETS,
        )
        self._phases = Histogram(
            "convlens_phase_seconds",
            "What a call spent in a phase, all its parts together.",
            ["phase"],
            registry=registry,
            buckets=PHASE_BUCKETS,
        )
        for name in PHASES:
            self._phases.labels(name)
        self._cache = Counter(
            "convlens_cache_requests",
            "Calls looked up in the response cache.",
            ["result"],
            registry=registry,
        )
        for result in RESULTS:
            self._cache.labels(result)
        self._refused = Counter(
            "convlens_refused", "Refused for want of room.", ["reason"], registry=registry
        )
        for reason in REASONS:
            self._refused.labels(reason)
        self._child = lru_cache(maxsize=1024)(lambda metric, *labels: metric.labels(*labels))
        self._in_flight = Gauge("convlens_calls_in_flight", "Calls that have not ended.", registry=registry)

    def expect(self, services: Iterable[str]) -> None:
        """Show their methods before the first call, so that the first is seen as an increase."""
        for service in services:
            for method in descriptor_pool.Default().FindServiceByName(service).methods:
                labels = (TYPES[_kind(method)], service, method.name)
                self._started.labels(*labels)
                self._handled.labels(*labels, "OK")

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A value that is asked for at each scrape, in the thread that serves them."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def collect(self, collector: Collector) -> None:
        """Tell also what `collector` knows."""
        self.registry.register(collector)

    def serve(self, listen: str) -> Callable[[], None]:
        """Serve them on "host:port", unless that is empty; gives what ends it."""
        return serve_metrics(listen, self.registry) if listen else lambda: None

    async def middleware(self, call: RequestContext, proceed: Proceed) -> Any:
        """Counts a call."""
        labels = _labels(call.method, call.kind)
        self._child(self._started, *labels).inc()
        self._in_flight.inc()
        try:
            return await proceed(call)
        finally:
            afterwards(self._count, call, call.seconds, labels)

    def _count(self, call: RequestContext, seconds: float, labels: tuple[str, str, str]) -> None:
        child = self._child
        self._in_flight.dec()
        child(self._handled, *labels, go_name(call.code)).inc()
        child(self._seconds, *labels).observe(seconds)
        for name, spent in call.phases.items():
            child(self._phases, name).observe(spent)
        if call.cache:
            child(self._cache, call.cache).inc()
        if call.code == "RESOURCE_EXHAUSTED":
            child(self._refused, call.reason).inc()


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
