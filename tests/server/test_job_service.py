"""JobService and google.longrunning.Operations, with a real server and Redis; the worker is made by hand."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from support.jobs import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED
from support.parts import from_parts
from support.redis_server import RedisServer
from support.replies import error_of
from support.repository import add_copy
from support.server_thread import serving
from support.worker_by_hand import WorkerByHand

from convlens import errors, wire
from convlens.v1 import image_pb2, inspection_pb2, inspection_pb2_grpc, job_pb2, job_pb2_grpc
from convlens_models.manifest import Manifest
from convlens_workers.jobs import JobSettings

SOUND = "operations/" + "0" * 32


class Stubs:
    """All services of a server that have to do with jobs."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.jobs = job_pb2_grpc.JobServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)
        self.inspection = inspection_pb2_grpc.InspectionServiceStub(channel)

    def get(self, name: str) -> operations_pb2.Operation:
        return self.operations.GetOperation(operations_pb2.GetOperationRequest(name=name))

    def cancel(self, name: str) -> None:
        self.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name))


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> dict[str, Any]:
    artifacts = str(tmp_path / "artifacts")
    return {
        "redis": redis_server.url,
        "artifacts": artifacts,
        "queue_limit": 3,
        "models": tmp_path / "models",
    }


@pytest.fixture
def stubs(settings: dict[str, Any]) -> Iterator[Stubs]:
    with serving(**settings) as app, grpc.insecure_channel(app.address) as channel:
        yield Stubs(channel)


@pytest.fixture
def worker(settings: dict[str, Any]) -> Iterator[WorkerByHand]:
    with WorkerByHand(JobSettings(**{name: settings[name] for name in ("redis", "artifacts")})) as worker:
        yield worker


@pytest.fixture
def dream(image: image_pb2.Image):
    """Makes a request for a job."""

    def dream(**fields: Any) -> job_pb2.SubmitJobRequest:
        settings = {"image": image, "steps": 3, **fields.pop("deepdream", {})}
        return job_pb2.SubmitJobRequest(deepdream=settings, **fields)

    return dream


def metadata_of(operation: operations_pb2.Operation) -> job_pb2.JobMetadata:
    metadata = job_pb2.JobMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata


def test_a_submitted_job_is_resolved_for_the_worker(stubs, worker, dream, manifest: Manifest) -> None:
    operation = stubs.jobs.SubmitJob(dream(seed=7))
    metadata = metadata_of(operation)
    assert not operation.done
    assert (metadata.state, metadata.technique) == (QUEUED, "deepdream")
    assert (metadata.model.name, metadata.model.version) == ("patterns", manifest.version)
    assert metadata.model_digest == manifest.digest
    attempt = worker.take()
    assert attempt.models == {f"patterns/{manifest.version}": manifest.digest}
    request = worker.request(attempt)
    assert request.model.version == manifest.version
    assert (request.seed, request.deepdream.steps, request.deepdream.octaves) == (7, 3, 4)
    assert request.deepdream.image == dream().deepdream.image
    assert metadata_of(stubs.get(operation.name)).state == RUNNING


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        ({"deepdream": {"octaves": 99}}, "deepdream.octaves", "between 1 and 12"),
        ({"deepdream": {"image": None}}, "deepdream.image", "given"),
        ({"deepdream": {"layers": ["nothing"]}}, "deepdream.layers[0]", "a layer of patterns"),
        ({"deepdream": {"image": {"encoded": b"junk"}}}, "deepdream.image.encoded", "a whole PNG"),
        ({"deepdream": {"tile": 5}}, "deepdream.tile", "0, or at least 64"),
        ({"seed": -1}, "seed", "between 0 and"),
        ({"request_id": "not a UUID"}, "request_id", "a UUID"),
        ({"model": {"version": 0}}, "model.version", "at least 1"),
    ],
    ids=str,
)
def test_a_bad_job_is_refused_before_it_is_queued(stubs, dream, fields, field, text) -> None:
    error = error_of(stubs.jobs.SubmitJob, dream(**fields))
    assert isinstance(error, errors.InvalidArgument)
    assert error.field == field
    assert text in error.message
    assert not stubs.operations.ListOperations(operations_pb2.ListOperationsRequest()).operations


def test_other_refusals(stubs, dream) -> None:
    assert isinstance(error_of(stubs.jobs.SubmitJob, job_pb2.SubmitJobRequest()), errors.InvalidArgument)
    assert isinstance(error_of(stubs.jobs.SubmitJob, dream(model={"name": "nothing"})), errors.NotFound)
    for _ in range(3):
        stubs.jobs.SubmitJob(dream())
    full = error_of(stubs.jobs.SubmitJob, dream())
    assert isinstance(full, errors.ResourceExhausted)
    assert full.reason == "JOB_QUEUE_FULL"
    assert full.retry_after


def test_a_style_network_cannot_be_differentiated(stubs, dream, settings) -> None:
    add_copy(settings["models"], "painter", task="style")
    error = error_of(stubs.jobs.SubmitJob, dream(model={"name": "painter"}))
    assert isinstance(error, errors.FailedPrecondition)
    assert "is a network for style" in error.message


def test_a_request_id_is_one_job(stubs, dream) -> None:
    request_id = str(uuid.uuid4())
    names = {stubs.jobs.SubmitJob(dream(request_id=request_id)).name for _ in range(3)}
    assert len(names) == 1
    other = error_of(stubs.jobs.SubmitJob, dream(request_id=request_id, seed=1))
    assert isinstance(other, errors.AlreadyExists)


def test_watch_gives_every_event_and_goes_on_after_the_last_one_seen(stubs, worker, dream) -> None:
    name = stubs.jobs.SubmitJob(dream()).name
    attempt = worker.take()
    for step in (1, 2):
        worker.store.update(attempt, {"step": step, "total_steps": 2}, preview=b"jpeg")
    worker.succeed(attempt, image=np.zeros((1, 3, 8, 8), np.float32))
    events = list(stubs.jobs.WatchJob(job_pb2.WatchJobRequest(name=name)))
    assert events[-1].metadata.state == SUCCEEDED
    assert [event.metadata.step for event in events if event.metadata.preview] == [1, 2]
    seen = events[1].event_id
    assert list(stubs.jobs.WatchJob(job_pb2.WatchJobRequest(name=name, after_event_id=seen))) == events[2:]


def test_watch_follows_a_job_until_it_ends(stubs, worker, dream) -> None:
    name = stubs.jobs.SubmitJob(dream()).name
    events = stubs.jobs.WatchJob(job_pb2.WatchJobRequest(name=name), timeout=20)
    assert next(events).metadata.state == QUEUED
    attempt = worker.take()
    assert next(events).metadata.state == RUNNING
    worker.fail(attempt, errors.Internal("the device process broke"))
    last = next(events)
    assert last.metadata.state == FAILED
    assert last.error.message == "the device process broke"
    assert list(events) == []
    operation = stubs.get(name)
    assert operation.done
    assert errors.from_status(operation.error).message == "the device process broke"


def test_watch_refuses_what_it_does_not_know(stubs, dream) -> None:
    name = stubs.jobs.SubmitJob(dream()).name
    watch = stubs.jobs.WatchJob
    assert isinstance(error_of(watch, job_pb2.WatchJobRequest()), errors.InvalidArgument)
    assert isinstance(error_of(watch, job_pb2.WatchJobRequest(name=SOUND)), errors.NotFound)
    assert isinstance(error_of(watch, job_pb2.WatchJobRequest(name="operations/../x")), errors.NotFound)
    malformed = job_pb2.WatchJobRequest(name=name, after_event_id="soon")
    assert isinstance(error_of(watch, malformed), errors.OutOfRange)


def test_an_artifact_is_read_from_any_byte(stubs, worker, dream) -> None:
    name = stubs.jobs.SubmitJob(dream()).name
    assert isinstance(error_of(stubs.jobs.ReadArtifact, read(name)), errors.FailedPrecondition)
    image = np.random.default_rng(0).random((1, 3, 700, 301), np.float32)
    worker.succeed(worker.take(), image=image, other=np.arange(4))
    result = job_pb2.JobResult()
    assert stubs.get(name).response.Unpack(result)
    assert [header.name for header in result.artifacts] == ["image", "other"]
    parts = [reply.tensor for reply in stubs.jobs.ReadArtifact(read(name))]
    assert np.array_equal(from_parts(parts)["image"], image)
    assert parts[0].header == result.artifacts[0]
    assert all(512 << 10 <= len(part.chunk.data) <= 1 << 20 for part in parts[1:-1])
    # A stream that broke after its first chunk goes on where it broke.
    assembler = wire.Assembler()
    for part in parts[:2]:
        assembler.add(part)
    for reply in stubs.jobs.ReadArtifact(read(name, read_offset=assembler.received)):
        assembler.add(reply.tensor)
    assert np.array_equal(assembler.finish()["image"], image)
    (header,) = stubs.jobs.ReadArtifact(read(name, read_offset=image.nbytes))
    assert header.tensor.header.total_bytes == image.nbytes


def test_reading_what_is_not_there(stubs, worker, dream) -> None:
    name = stubs.jobs.SubmitJob(dream()).name
    worker.succeed(worker.take(), image=np.zeros(9))
    refusals = [
        (read(name, artifact="sound"), errors.NotFound),
        (read(SOUND), errors.NotFound),
        (read(name, artifact=""), errors.InvalidArgument),
        (read(name, read_offset=-1), errors.InvalidArgument),
        (read(name, read_offset=73), errors.OutOfRange),
    ]
    for request, kind in refusals:
        assert isinstance(error_of(stubs.jobs.ReadArtifact, request), kind), request


def read(name: str, **fields: Any) -> job_pb2.ReadArtifactRequest:
    return job_pb2.ReadArtifactRequest(**{"name": name, "artifact": "image", **fields})


def test_list_is_paged_filtered_and_without_previews(stubs, worker, dream) -> None:
    names = [stubs.jobs.SubmitJob(dream()).name for _ in range(3)]
    attempt = worker.take()
    worker.store.update(attempt, {"step": 1}, preview=b"jpeg")
    worker.succeed(attempt, image=np.zeros(1))

    def listed(**fields: Any) -> operations_pb2.ListOperationsResponse:
        return stubs.operations.ListOperations(operations_pb2.ListOperationsRequest(**fields))

    whole = listed(name="operations")
    assert [operation.name for operation in whole.operations] == names[::-1]
    assert not any(metadata_of(operation).preview for operation in whole.operations)
    assert metadata_of(stubs.get(names[0])).preview == b"jpeg"
    first = listed(page_size=2)
    second = listed(page_size=2, page_token=first.next_page_token)
    assert [*first.operations, *second.operations] == list(whole.operations)
    assert [operation.name for operation in listed(filter="state=SUCCEEDED").operations] == names[:1]
    for fields in ({"page_size": -1}, {"filter": "junk"}, {"page_token": "junk"}, {"name": "models"}):
        request = operations_pb2.ListOperationsRequest(**fields)
        error = error_of(stubs.operations.ListOperations, request)
        assert isinstance(error, errors.InvalidArgument)
        assert error.field == next(iter(fields))


def test_wait_returns_at_the_end_or_after_its_timeout(stubs, worker, dream) -> None:
    name = stubs.jobs.SubmitJob(dream()).name
    short = operations_pb2.WaitOperationRequest(name=name, timeout=Duration(nanos=50_000_000))
    assert not stubs.operations.WaitOperation(short).done
    attempt = worker.take()
    waiting = stubs.operations.WaitOperation.future(operations_pb2.WaitOperationRequest(name=name))
    time.sleep(0.1)
    assert not waiting.done()
    worker.succeed(attempt, image=np.zeros(1))
    assert waiting.result(10).done
    assert isinstance(
        error_of(stubs.operations.WaitOperation, operations_pb2.WaitOperationRequest(name=SOUND)),
        errors.NotFound,
    )


def test_cancel_and_delete(stubs, worker, dream) -> None:
    delete = stubs.operations.DeleteOperation
    name = stubs.jobs.SubmitJob(dream()).name
    request = operations_pb2.DeleteOperationRequest(name=name)
    assert isinstance(error_of(delete, request), errors.FailedPrecondition)
    stubs.cancel(name)
    operation = stubs.get(name)
    assert operation.done
    assert metadata_of(operation).state == CANCELLED
    assert isinstance(errors.from_status(operation.error), errors.Cancelled)
    delete(request)
    for method, missing in (
        (stubs.operations.GetOperation, operations_pb2.GetOperationRequest(name=name)),
        (stubs.operations.CancelOperation, operations_pb2.CancelOperationRequest(name=name)),
        (delete, request),
    ):
        assert isinstance(error_of(method, missing), errors.NotFound)


def test_without_redis_only_quick_calls_are_served(channel: grpc.Channel, image, dream) -> None:
    stubs = Stubs(channel)
    for method, request in (
        (stubs.jobs.SubmitJob, dream()),
        (stubs.jobs.WatchJob, job_pb2.WatchJobRequest(name=SOUND)),
        (stubs.jobs.ReadArtifact, read(SOUND)),
        (stubs.operations.GetOperation, operations_pb2.GetOperationRequest(name=SOUND)),
        (stubs.operations.ListOperations, operations_pb2.ListOperationsRequest()),
    ):
        error = error_of(method, request)
        assert isinstance(error, errors.FailedPrecondition)
        assert "CONVLENS_REDIS" in error.message
        assert error.reason == "NO_LONG_LANE"
    assert stubs.inspection.Classify(inspection_pb2.ClassifyRequest(images=[image])).classifications


def test_redis_that_is_away_comes_back(stubs, redis_server: RedisServer, image, dream) -> None:
    name = stubs.jobs.SubmitJob(dream()).name
    redis_server.stop()
    try:
        for method, request in (
            (stubs.jobs.SubmitJob, dream()),
            (stubs.operations.GetOperation, operations_pb2.GetOperationRequest(name=name)),
        ):
            error = error_of(method, request)
            assert isinstance(error, errors.Unavailable)
            assert error.retry_after
        assert stubs.inspection.Classify(inspection_pb2.ClassifyRequest(images=[image])).classifications
    finally:
        redis_server.start()
    assert stubs.get(name).name == name


def test_so_many_wait_for_jobs_and_no_more(settings, dream) -> None:
    with serving(**settings, max_long_calls=1) as app, grpc.insecure_channel(app.address) as channel:
        stubs = Stubs(channel)
        name = stubs.jobs.SubmitJob(dream()).name
        watch = job_pb2.WatchJobRequest(name=name)
        waits = operations_pb2.WaitOperationRequest(name=name, timeout={"seconds": 0})
        watching = stubs.jobs.WatchJob(watch)
        assert next(watching).metadata.state == QUEUED
        for method, request in (
            (stubs.operations.WaitOperation, waits),
            (stubs.jobs.WatchJob, watch),
            (stubs.jobs.ReadArtifact, read(name)),
        ):
            full = error_of(method, request)
            assert isinstance(full, errors.ResourceExhausted)
            assert full.reason == "LONG_CALLS"
            assert full.retry_after
        watching.cancel()
        until = time.monotonic() + 10
        while app._jobs._room.held and time.monotonic() < until:
            time.sleep(0.01)
        assert stubs.operations.WaitOperation(waits).name == name


def test_watchers_are_sent_away_when_the_server_ends(settings, dream) -> None:
    ended: list[errors.ConvLensError] = []
    with serving(**settings, grace=4) as app:
        channel = grpc.insecure_channel(app.address)
        stubs = Stubs(channel)
        name = stubs.jobs.SubmitJob(dream()).name
        events = stubs.jobs.WatchJob(job_pb2.WatchJobRequest(name=name))
        assert next(events).metadata.state == QUEUED
        watching = threading.Thread(target=lambda: ended.append(end_of(events)))
        watching.start()
        started = time.monotonic()
    watching.join(10)
    assert time.monotonic() - started < 10
    channel.close()
    assert isinstance(ended[0], errors.Unavailable)
    assert ended[0].retry_after


def end_of(stream: Any) -> errors.ConvLensError:
    try:
        list(stream)
    except grpc.RpcError as error:
        return errors.from_rpc_error(error)
    raise AssertionError("the stream ended well")
