"""One trace from the client through the server and the queue to the worker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import redis
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_span_id, format_trace_id
from support.collector import Collector, Span, collecting
from support.front_end import FrontEnd
from support.job_plane import dream
from support.redis_server import RedisServer, free_port
from support.tiny_model import NAME
from support.worker_process import WorkerProcess, eventually

from convlens.v1 import job_pb2_grpc, model_pb2, model_pb2_grpc
from convlens_client import Client
from convlens_workers.settings import WorkerSettings


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def plane(
    collector: Collector,
    shared_redis: RedisServer,
    tiny_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, WorkerSettings]]:
    """Address of a server with one worker, both of which export their spans; the settings of the plane."""
    shared_redis.flush()
    folder = tmp_path_factory.mktemp("plane")
    places = {"redis": shared_redis.url, "artifacts": str(folder / "artifacts"), "models": tiny_models}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        settings = WorkerSettings(**places, device="cpu")
        worker = WorkerProcess(settings, folder)
        with FrontEnd(**places, warm="[]") as server:
            worker.ready()
            yield server.address, settings
        worker.end()


@pytest.fixture(scope="module")
def address(plane: tuple[str, WorkerSettings]) -> str:
    return plane[0]


def traced(collector: Collector, trace: str, *names: str) -> dict[str, Span]:
    """The spans of a trace by their names, once these are there."""

    def look() -> dict[str, Span] | None:
        found = {span.name: span for span in collector.of(trace)}
        return found if found.keys() >= set(names) else None

    found: dict[str, Span] = eventually(look, 20.0, lambda: str(collector.spans))
    return found


def test_a_job_is_one_trace_from_the_client_to_the_worker(collector: Collector, address: str) -> None:
    tracer, pixels = TracerProvider().get_tracer("a program"), np.zeros((32, 32, 3), np.uint8)
    with Client(address) as client, tracer.start_as_current_span("look at a photo") as root:
        job = client.deepdream(pixels, layers="features.relu4_1", model=NAME, octaves=1, steps=2)
        assert job.wait(60).state == "SUCCEEDED"
    here = root.get_span_context()
    trace = format_trace_id(here.trace_id)
    submit, wait = "convlens.v1.JobService/SubmitJob", "google.longrunning.Operations/WaitOperation"
    spans = traced(collector, trace, submit, wait, "attempt")
    assert spans[submit].parent == spans[wait].parent == format_span_id(here.span_id)
    assert spans[submit].service == "convlens-server"
    assert spans[submit].attributes["rpc.grpc.status_code"] == 0
    assert spans["attempt"].service == "convlens-worker"
    assert spans["attempt"].parent == spans[submit].id
    said = {
        "convlens.operation": job.name.removeprefix("operations/"),
        "convlens.technique": "deepdream",
        "convlens.attempt": 1,
        "convlens.device": "cpu",
        "convlens.end": "finished",
    }
    assert said.items() <= spans["attempt"].attributes.items()
    (waited,) = (
        span for span in collector.of(trace) if span.service == "convlens-worker" and span.name == "queue"
    )
    assert waited.parent == spans[submit].id
    assert 0 <= waited.seconds < 60


def test_the_phases_of_a_quick_call_are_children_of_its_span(collector: Collector, address: str) -> None:
    tracer = TracerProvider().get_tracer("a program")
    with Client(address) as client, tracer.start_as_current_span("classify") as root:
        client.classify(np.zeros((32, 32, 3), np.uint8), model=NAME)
    call = "convlens.v1.InspectionService/Classify"
    trace = format_trace_id(root.get_span_context().trace_id)
    spans = traced(collector, trace, call, "queue", "decode", "compute")
    for phase in ("queue", "decode", "compute"):
        assert spans[phase].parent == spans[call].id
        assert 0 <= spans[phase].seconds <= spans[call].seconds
        assert spans[call].attributes[f"convlens.{phase}_seconds"] > 0


def test_calls_without_a_trace_begin_their_own_and_forged_ones_too(
    collector: Collector, address: str
) -> None:
    forged = ["", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "x" * 4000, '00-"}\\n-1-01', "ff" + "-1" * 50]
    with grpc.insecure_channel(address) as channel:
        stub = model_pb2_grpc.ModelServiceStub(channel)
        for number, header in enumerate(forged):
            metadata = [("traceparent", header), ("x-request-id", f"forged-{number}")]
            stub.GetModel(model_pb2.GetModelRequest(model={"name": NAME}), metadata=metadata)

    def look() -> list[Span] | None:
        found = [
            span
            for span in collector.spans
            if str(span.attributes.get("convlens.request_id", "")).startswith("forged-")
        ]
        return found if len(found) == len(forged) else None

    spans = eventually(look, 20.0)
    assert {span.parent for span in spans} == {""}
    assert len({span.trace for span in spans}) == len(forged)


def test_only_failures_of_the_server_are_errors(collector: Collector, address: str) -> None:
    request = model_pb2.GetModelRequest(model={"name": "absent"})
    with grpc.insecure_channel(address) as channel:
        stub = model_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.GetModel(request, metadata=[("x-request-id", "not-found")])

    def look() -> list[Span]:
        return [span for span in collector.spans if span.attributes.get("convlens.request_id") == "not-found"]

    (span,) = eventually(look, 20.0)
    assert span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert not span.failed


def test_the_record_keeps_the_trace_to_itself(plane: tuple[str, WorkerSettings]) -> None:
    address, settings = plane
    header = f"00-{'ab' * 16}-{'cd' * 8}-01"
    with grpc.insecure_channel(address) as channel:
        stub = job_pb2_grpc.JobServiceStub(channel)
        name = stub.SubmitJob(dream(1), metadata=[("traceparent", header)]).name
    id_ = name.removeprefix("operations/")
    with redis.Redis.from_url(settings.redis) as client:
        kept = client.hget(f"convlens:operation:{id_}", "trace").decode()
        events = client.xrange(f"convlens:events:{id_}")
    assert kept.startswith(f"00-{'ab' * 16}-")
    assert "cd" * 8 not in kept  # It is the server's span that the job follows.
    assert events
    assert not any(b"trace" in fields for _, fields in events)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, ""),
        ({"OTEL_TRACES_EXPORTER": "none"}, ""),
        ({"OTEL_TRACES_EXPORTER": "telegraph"}, "'telegraph' is not installed"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, ""),
    ],
    ids=str,
)
def test_where_nobody_asks_for_traces_nothing_is_recorded(variables: dict[str, str], said: str) -> None:
    script = """
from opentelemetry import trace
from convlens_workers.telemetry.tracing import exporting
with exporting("test"), trace.get_tracer("a").start_as_current_span("a span"):
    pass
"""
    run = python(script, variables)
    assert (run.returncode, run.stdout) == (0, "")
    assert said in run.stderr
    assert bool(said) == bool(run.stderr)


def test_any_exporter_can_be_named_and_what_is_left_is_sent_at_the_end() -> None:
    script = """
from opentelemetry import trace
from convlens_workers.telemetry.tracing import exporting
with exporting("test"), trace.get_tracer("a").start_as_current_span("a span"):
    pass
"""
    run = python(script, {"OTEL_TRACES_EXPORTER": "console"})
    assert '"name": "a span"' in run.stdout
    assert '"service.name": "test"' in run.stdout


def test_a_collector_that_is_away_does_not_hold_up_the_end() -> None:
    script = """
import time
from opentelemetry import trace
from convlens_workers.telemetry.tracing import exporting
with exporting("test"):
    with trace.get_tracer("a").start_as_current_span("a span"):
        pass
    began = time.monotonic()
print(time.monotonic() - began)
"""
    run = python(script, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"})
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 6


def test_without_the_sdk_there_are_no_spans_but_the_ids_go_on() -> None:
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from opentelemetry import context, trace
from convlens_workers.telemetry.tracing import exporting, following, traceparent
header = f"00-{'ab' * 16}-{'cd' * 8}-01"
with exporting("test"):
    assert traceparent() == ""
    parent = following(header)
    span = trace.get_tracer("a").start_span("a span", parent)
    assert not span.is_recording()
    context.attach(trace.set_span_in_context(span, parent))
    assert traceparent() == header
"""
    run = python(script, {"OTEL_TRACES_EXPORTER": "otlp"})
    assert run.returncode == 0, run.stderr
    assert "pip install 'convlens[otel]'" in run.stderr


def python(script: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, env=kept | variables, capture_output=True, text=True, check=False, timeout=60
    )
