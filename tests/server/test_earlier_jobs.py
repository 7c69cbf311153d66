"""Jobs that are asked about, found by tags, run again, gone on from; with a real server, a worker by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from support.jobs import CANCELLED, FAILED
from support.redis_server import RedisServer
from support.replies import error_of
from support.server_thread import serving
from support.worker_by_hand import WorkerByHand

from convlens import errors, wire
from convlens.v1 import image_pb2, job_pb2, job_pb2_grpc
from convlens_workers.jobs import JobSettings
from convlens_workers.jobs.worker_job_store import Attempt

MISSING = "operations/" + "0" * 32
PICTURE = np.full((1, 3, 4, 5), 0.5, np.float32)


class Stubs:
    """The services of jobs, for one caller."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.jobs = job_pb2_grpc.JobServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)

    def submit(self, request: job_pb2.SubmitJobRequest) -> str:
        name: str = self.jobs.SubmitJob(request).name
        return name

    def refusal(self, request: job_pb2.SubmitJobRequest) -> errors.ConvLensError:
        return error_of(self.jobs.SubmitJob, request)

    def metadata(self, name: str) -> job_pb2.JobMetadata:
        metadata = job_pb2.JobMetadata()
        self.operations.GetOperation(operations_pb2.GetOperationRequest(name=name)).metadata.Unpack(metadata)
        return metadata

    def read(self, name: str, artifact: str) -> np.ndarray:
        assembler = wire.Assembler()
        for reply in self.jobs.ReadArtifact(job_pb2.ReadArtifactRequest(name=name, artifact=artifact)):
            assembler.add(reply.tensor)
        (array,) = assembler.finish().values()
        return array


@pytest.fixture
def places(redis_server: RedisServer, tmp_path: Path) -> dict[str, Any]:
    return {"redis": redis_server.url, "artifacts": str(tmp_path / "artifacts")}


@pytest.fixture
def stubs(places: dict[str, Any], tmp_path: Path) -> Iterator[Stubs]:
    with serving(**places, models=tmp_path) as app, grpc.insecure_channel(app.address) as channel:
        yield Stubs(channel)


@pytest.fixture
def worker(places: dict[str, Any]) -> Iterator[WorkerByHand]:
    with WorkerByHand(JobSettings(**places)) as worker:
        yield worker


@pytest.fixture
def dream(image: image_pb2.Image) -> job_pb2.SubmitJobRequest:
    named = image_pb2.Image(encoded=image.encoded, name="waves.png")
    return job_pb2.SubmitJobRequest(
        seed=5, tags={"who": "ana", "try": "1"}, deepdream={"image": named, "steps": 3, "octaves": 2}
    )


def ended(worker: WorkerByHand, stubs: Stubs, name: str) -> Attempt:
    """The job once it has run, has stored a checkpoint and was cancelled."""
    attempt = worker.take()
    digest = worker.artifacts.put(attempt.id, "checkpoints", b"state")
    worker.store.checkpoint(attempt, digest)
    stubs.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name))
    worker.fail(attempt, errors.Cancelled("cancelled"))
    return attempt


def test_what_a_job_was_asked_for_is_kept_without_its_bytes(stubs, worker, dream) -> None:
    name = stubs.submit(dream)
    told = stubs.jobs.GetJobRequest(job_pb2.GetJobRequestRequest(name=name))
    assert (told.request.seed, told.request.deepdream.steps, told.request.deepdream.jitter) == (5, 3, 32)
    assert told.request.tags == dream.tags
    encoded = dream.deepdream.image.encoded
    (picture,) = told.pictures
    assert (picture.path, picture.name) == ("deepdream.image", "waves.png")
    assert (picture.sha256, picture.total_bytes) == (sha256(encoded).hexdigest(), len(encoded))
    assert told.ByteSize() < 1000 < len(encoded)
    assert not worker.request(worker.take()).tags
    missing = job_pb2.GetJobRequestRequest(name=MISSING)
    assert isinstance(error_of(stubs.jobs.GetJobRequest, missing), errors.NotFound)


def test_jobs_are_found_by_their_tags(stubs, dream) -> None:
    first, second = stubs.submit(dream), stubs.submit(job_pb2.SubmitJobRequest(deepdream=dream.deepdream))
    assert stubs.metadata(first).tags == dream.tags
    for filter_, found in {
        "tags.who=ana": [first],
        'tags.who=ana AND tags.try="1" AND state=QUEUED': [first],
        "tags.who=ana AND tags.try=2": [],
        "technique=deepdream": [second, first],
    }.items():
        listed = stubs.operations.ListOperations(operations_pb2.ListOperationsRequest(filter=filter_))
        assert [operation.name for operation in listed.operations] == found, filter_


@pytest.mark.parametrize(
    ("tags", "field"),
    [
        ({"": "x"}, "tags"),
        ({"with space": "x"}, "tags"),
        ({"n" * 64: "x"}, "tags"),
        ({"who": "ana AND x"}, "tags.who"),
        ({"who": "x" * 129}, "tags.who"),
        ({f"t{i}": "" for i in range(17)}, "tags"),
    ],
    ids=range(6),
)
def test_tags_are_bounded(tags: dict[str, str], field: str, stubs, dream) -> None:
    dream.tags.clear()
    dream.tags.update(tags)
    error = stubs.refusal(dream)
    assert isinstance(error, errors.InvalidArgument)
    assert error.field == field


def test_a_job_is_run_again_with_what_is_said_anew(stubs, worker, dream) -> None:
    dream.deepdream.layers.extend(["features.relu4_1"])
    name = stubs.submit(dream)
    first = worker.request(worker.take())
    again = stubs.submit(
        job_pb2.SubmitJobRequest(
            base=name, seed=6, deepdream={"layers": ["features.relu3_1", "features.relu4_1"], "octaves": 1}
        )
    )
    second = worker.request(worker.take())
    assert (second.seed, second.deepdream.octaves, second.deepdream.steps) == (6, 1, 3)
    assert list(second.deepdream.layers) == ["features.relu3_1", "features.relu4_1"]
    assert second.deepdream.image == first.deepdream.image == dream.deepdream.image
    assert second.model == first.model
    assert not second.base
    assert not stubs.metadata(again).tags
    same = stubs.submit(job_pb2.SubmitJobRequest(base=name))
    assert worker.request(worker.take()).deepdream == first.deepdream
    assert same not in (name, again)


def test_what_cannot_be_run_again(stubs, dream) -> None:
    name = stubs.submit(dream)
    for request, kind, field in (
        ({"base": MISSING}, errors.NotFound, ""),
        ({"base": "x"}, errors.NotFound, ""),
        ({"base": name, "resume": name}, errors.InvalidArgument, "resume"),
        ({"base": name, "texture": {"steps": 3}}, errors.InvalidArgument, "technique"),
        ({"base": name, "deepdream": {"octaves": 99}}, errors.InvalidArgument, "deepdream.octaves"),
        ({"base": name, "deepdream": {"layers": ["no"]}}, errors.InvalidArgument, "deepdream.layers[0]"),
        ({}, errors.InvalidArgument, "technique"),
    ):
        error = stubs.refusal(job_pb2.SubmitJobRequest(**request))
        assert (type(error), error.field) == (kind, field), request


def test_a_job_is_gone_on_from_its_last_checkpoint(stubs, worker, dream) -> None:
    name = stubs.submit(dream)
    before = ended(worker, stubs, name)
    assert stubs.metadata(name).resumable
    more = stubs.submit(job_pb2.SubmitJobRequest(resume=name, deepdream={"steps": 9}))
    stubs.operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=name))  # It has its own.
    attempt = worker.take()
    request = worker.request(attempt)
    assert (request.resume, request.deepdream.steps, request.seed) == (name, 9, 5)
    (checkpoint,) = attempt.checkpoints
    assert worker.artifacts.get(attempt.id, "checkpoints", checkpoint) == b"state"
    assert attempt.id == more.removeprefix("operations/") != before.id


def test_what_a_job_that_is_gone_on_from_is_reckoned_to_cost(stubs, worker, dream) -> None:
    """The steps that the last octave gets more; where the checkpoint's step is not known, nothing."""

    def cost(**fields: Any) -> tuple[float, int]:
        name = stubs.submit(job_pb2.SubmitJobRequest(**fields))
        record = worker.record(name)
        assert (float(record[b"cost"]) > 0) == (stubs.metadata(name).expected_seconds > 0)
        worker.take()
        return float(record[b"cost"]), stubs.metadata(name).total_steps

    name = stubs.submit(dream)
    attempt = worker.take()
    worker.store.checkpoint(attempt, worker.artifacts.put(attempt.id, "checkpoints", b"state"))
    time.sleep(0.002)
    worker.succeed(attempt, image=PICTURE)
    octave = {"base": name, "deepdream": {"octaves": 1, "steps": 6}}
    assert cost(resume=name, deepdream={"steps": 9}) == (pytest.approx(cost(**octave)[0]), 18)
    again = stubs.submit(dream)
    ended(worker, stubs, again)
    assert cost(resume=again, deepdream={"steps": 9}) == (0, 18)


def test_what_cannot_be_gone_on_from(stubs, worker, dream, image) -> None:
    name = stubs.submit(dream)

    def refused(kind: type, field: str = "", text: str = "", **fields: Any) -> None:
        error = stubs.refusal(job_pb2.SubmitJobRequest(**{"resume": name, **fields}))
        assert (type(error), error.field) == (kind, field), error
        assert text in error.message

    refused(errors.FailedPrecondition, text="has not ended")
    ended(worker, stubs, name)
    refused(errors.NotFound, resume=MISSING)
    refused(errors.FailedPrecondition, "seed", "see base", seed=6)
    refused(errors.FailedPrecondition, "deepdream.octaves", deepdream={"octaves": 1})
    refused(errors.InvalidArgument, "deepdream.steps", "at least 3", deepdream={"steps": 2})
    refused(errors.InvalidArgument, "technique", "deepdream", texture={"steps": 3})
    name = stubs.submit(dream)
    stubs.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name))
    refused(errors.FailedPrecondition, text="no checkpoint")
    name = stubs.submit(dream)
    attempt = worker.take()
    worker.store.checkpoint(attempt, worker.artifacts.put(attempt.id, "checkpoints", b"state"))
    worker.succeed(attempt, image=PICTURE)
    refused(errors.InvalidArgument, "resume", "larger may be steps")
    attack = {"images": [image], "targets": [1]}
    name = stubs.submit(job_pb2.SubmitJobRequest(carlini_wagner=attack))
    stubs.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name))
    refused(errors.InvalidArgument, "resume", "a job of deepdream, feature_visualisation")
    error = stubs.refusal(job_pb2.SubmitJobRequest(save_every=3, carlini_wagner=attack))
    assert (error.field, "deepdream" in error.message) == ("save_every", True)


def test_what_there_is_so_far_is_read_after_a_cancel(stubs, worker, dream) -> None:
    """It comes after the state is CANCELLED, and changes nothing else; nobody but that attempt may add it."""
    name = stubs.submit(dream)
    attempt = ended(worker, stubs, name)
    before = stubs.metadata(name)
    read = job_pb2.ReadArtifactRequest(name=name, artifact="so_far")
    assert isinstance(error_of(stubs.jobs.ReadArtifact, read), errors.FailedPrecondition)
    header = wire.header("so_far", PICTURE)
    header.sha256 = worker.artifacts.put(attempt.id, "artifacts", PICTURE.tobytes())
    stranger = Attempt(attempt.id, "another", 1, "", ())
    assert not worker.store.leave(stranger, "c", [header])
    assert worker.store.leave(attempt, "c", [header])
    worker.offer(attempt, image=PICTURE)
    after = stubs.metadata(name)
    assert after.state == CANCELLED
    assert [each.name for each in after.artifacts] == ["so_far"]
    after.ClearField("artifacts")
    assert after == before
    np.testing.assert_array_equal(stubs.read(name, "so_far"), PICTURE)


def test_pictures_on_the_way_are_read_while_the_job_runs_and_after(stubs, worker, dream) -> None:
    dream.save_every = 1
    name = stubs.submit(dream)
    attempt = worker.take()
    assert worker.request(attempt).save_every == 1
    header = wire.header("step.000001", PICTURE)
    header.sha256 = worker.artifacts.put(attempt.id, "artifacts", PICTURE.tobytes())
    made = job_pb2.JobResult(artifacts=[header]).SerializeToString()
    worker.store.update(attempt, {"step": 1, "artifacts": made})
    np.testing.assert_array_equal(stubs.read(name, "step.000001"), PICTURE)
    worker.fail(attempt, errors.Internal("broken"))
    assert stubs.metadata(name).state == FAILED
    np.testing.assert_array_equal(stubs.read(name, "step.000001"), PICTURE)
