"""An attempt at a job as a span."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from convlens_workers import spans
from convlens_workers.jobs.worker_job_store import Attempt
from convlens_workers.telemetry.tracing import traceparent

TRACE, SUBMIT = "ab" * 16, "cd" * 8


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def attempt(number: int, trace: str = f"00-{TRACE}-{SUBMIT}-01") -> Attempt:
    return Attempt("0" * 32, "token", number, "", (), technique="deepdream", waited=2.5, trace=trace)


def found(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_first_attempt_has_waited(exported: InMemorySpanExporter) -> None:
    with spans.spanning(attempt(1), "cuda:0") as span:
        assert traceparent().split("-")[1] == TRACE  # What the worker logs meanwhile has the trace.
        spans.ended(span, "finished", "", failed=False)
    both = found(exported)
    assert both.keys() == {"queue", "attempt"}
    for each in both.values():
        assert each.parent is not None
        assert f"{each.context.trace_id:032x}-{each.parent.span_id:016x}" == f"{TRACE}-{SUBMIT}"
    queue = both["queue"]
    assert queue.end_time is not None
    assert queue.start_time is not None
    assert (queue.end_time - queue.start_time) / 1e9 == pytest.approx(2.5, abs=1e-3)
    assert both["attempt"].attributes is not None
    assert both["attempt"].attributes["convlens.device"] == "cuda:0"
    assert both["attempt"].status.is_ok or both["attempt"].status.is_unset


def test_a_second_attempt_says_so_and_why_it_died(exported: InMemorySpanExporter) -> None:
    with spans.spanning(attempt(2), "cpu") as span:
        spans.ended(span, "died", "signal 9", failed=True)
    (one,) = exported.get_finished_spans()
    assert one.attributes is not None
    assert one.attributes["convlens.attempt"] == 2
    assert (one.attributes["convlens.end"], one.attributes["convlens.why"]) == ("died", "signal 9")
    assert not one.status.is_ok
    assert one.status.description == "signal 9"


@pytest.mark.parametrize("trace", ["", "nonsense", f"00-{'0' * 32}-{SUBMIT}-01"])
def test_a_job_without_a_trace_begins_one(exported: InMemorySpanExporter, trace: str) -> None:
    with spans.spanning(attempt(2, trace), "cpu"):
        pass
    (one,) = exported.get_finished_spans()
    assert one.parent is None
