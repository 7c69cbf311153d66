"""Lengths, counters and throughput of queues, as a message and for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import median
from typing import Any, Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from convlens.v1 import job_pb2
from convlens_workers.jobs.redis_errors import AWAY

GAUGES: Final = {
    "queued": "Jobs that wait.",
    "running": "Jobs that workers have.",
    "oldest_queued_seconds": "Age of the job that is next.",
    "workers": "Workers that take jobs.",
}
EVENTS: Final = ("submitted", "succeeded", "failed", "cancelled", "retried", "drained", "given_up")
"""Counters that are exported as 0 from the start, so that Prometheus sees the first event as an increase."""


def to_stats(reply: list[Any], queue: str, priority: job_pb2.Priority.ValueType) -> job_pb2.QueueStats:
    """The message that tells what the script `stats` has replied."""
    queued, running, oldest, counters, flat, workers = reply
    speeds = _pairs(flat, bytes)
    devices = dict.fromkeys(kind.partition(" ")[0] for kind in speeds)
    return job_pb2.QueueStats(
        priority=priority,
        queue=queue,
        queued=queued,
        running=running,
        oldest_queued_seconds=max(0, int(oldest)) / 1000,
        counters=_pairs(counters, int),
        throughput={device: _middle(speeds, f"{device} ", "") for device in devices},
        workers=workers,
    )


def speed(speeds: Mapping[bytes, bytes], technique: str) -> float:
    """Multiply-adds a second to expect of a job: the median of the last ones of its technique, else of all.

    0 where none has ended. Of a median one job that is unlike all others spoils nothing.
    """
    known = {kind.decode(): value for kind, value in speeds.items()}
    return _middle(known, "", f" {technique}") or _middle(known, "", "")


def _middle(speeds: Mapping[str, bytes], start: str, end: str) -> float:
    """The median of all kinds that start and end so, each of which is the median of its last jobs."""
    kinds = (value for kind, value in speeds.items() if kind.startswith(start) and kind.endswith(end))
    rates = [median(map(float, value.split())) for value in kinds]
    return median(rates) if rates else 0.0


class QueueCollector(Collector):
    """Queues as metrics, asked for at each scrape; while Redis is away there is only `convlens_redis_up` 0.

    Args:
        ask: gives the stats of all queues, and may raise what the job plane raises.
    """

    def __init__(self, ask: Callable[[], Iterable[job_pb2.QueueStats]]) -> None:
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        """The metrics, asked for at each scrape."""
        up = GaugeMetricFamily("convlens_redis_up", "Whether Redis answers.")
        try:
            queues = list(self._ask())
        except (*AWAY, TimeoutError):
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _queues(queues)


def _queues(queues: list[job_pb2.QueueStats]) -> Iterator[Metric]:
    for name, text in GAUGES.items():
        gauge = GaugeMetricFamily(f"convlens_jobs_{name}", text, labels=["queue"])
        for stats in queues:
            gauge.add_metric([stats.queue], getattr(stats, name))
        yield gauge
    counter = CounterMetricFamily("convlens_jobs", "What happened to jobs.", labels=["queue", "event"])
    speed = GaugeMetricFamily("convlens_multiply_adds_per_second", "Lately.", labels=["queue", "device"])
    for stats in queues:
        for event, value in (dict.fromkeys(EVENTS, 0) | dict(stats.counters)).items():
            counter.add_metric([stats.queue, event], value)
        for device, rate in stats.throughput.items():
            speed.add_metric([stats.queue, device], rate)
    yield from (counter, speed)


def serve_metrics(listen: str, registry: CollectorRegistry) -> Callable[[], None]:
    """Serve `registry` on "host:port" from a thread of its own; gives what ends that."""
    host, _, port = listen.rpartition(":")
    server, thread = start_http_server(int(port), host, registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def _pairs(flat: list[bytes], read: Callable[[bytes], Any]) -> dict[str, Any]:
    return {name.decode(): read(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}
