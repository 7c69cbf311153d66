"""Substitute attacks are queued only against victims that the operator has allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.redis_server import RedisServer
from support.replies import error_of
from support.server_thread import serving
from support.worker_by_hand import WorkerByHand

from convlens.errors import InvalidArgument
from convlens.v1 import image_pb2, job_pb2, job_pb2_grpc
from convlens_workers.jobs import JobSettings


@pytest.fixture
def places(redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    return {"redis": redis_server.url, "artifacts": str(tmp_path / "artifacts")}


@pytest.fixture
def jobs(places: dict[str, str], tmp_path: Path) -> Iterator[job_pb2_grpc.JobServiceStub]:
    victims = {"theirs": "oip://192.0.2.1:8001"}
    with (
        serving(**places, models=tmp_path / "models", victims=victims) as app,
        grpc.insecure_channel(app.address) as channel,
    ):
        yield job_pb2_grpc.JobServiceStub(channel)


def asked(image: image_pb2.Image, victim: str) -> job_pb2.SubmitJobRequest:
    attack = {"victim": victim, "images": [image, image], "held_out": [image]}
    return job_pb2.SubmitJobRequest(substitute=attack)


def test_a_victim_of_the_operator_is_taken(jobs, places, image: image_pb2.Image) -> None:
    assert jobs.SubmitJob(asked(image, "theirs")).name
    with WorkerByHand(JobSettings(**places)) as worker:
        request = worker.request(worker.take())
    assert request.substitute.victim == "theirs"
    assert request.substitute.images[0].resize.HasField("short_side")


@pytest.mark.parametrize("victim", ["", "192.0.2.1:8001", "oip://192.0.2.1:8001"])
def test_others_are_refused_before_anything_is_queued(jobs, image: image_pb2.Image, victim: str) -> None:
    error = error_of(jobs.SubmitJob, asked(image, victim))
    assert isinstance(error, InvalidArgument)
    assert error.field == "substitute.victim"
    assert "(theirs)" in error.message
