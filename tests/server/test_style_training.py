"""From SubmitJob to Stylise: a style network is trained and used, with a real server and Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import torch
from google.longrunning import operations_pb2, operations_pb2_grpc
from support import techniques
from support.collections import picture
from support.replies import error_of, tensors_of
from support.server_thread import serving
from support.tiny_model import NAME, add_tiny_model
from support.worker_by_hand import WorkerByHand

from convlens import errors, wire
from convlens.v1 import collection_pb2, collection_pb2_grpc, job_pb2, job_pb2_grpc, style_pb2, style_pb2_grpc
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.device_process import decode_images
from convlens_workers.jobs import JobSettings
from convlens_workers.networks import Networks
from convlens_workers.techniques.base import Host, Task
from convlens_workers.techniques.train_style import train_style

CPU = torch.device("cpu")


@pytest.fixture
def plane(redis_server, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A server that allows one folder, and its stubs."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.png").write_bytes(picture(0, 80))
    settings = {
        "redis": redis_server.url,
        "artifacts": str(tmp_path / "artifacts"),
        "models": add_tiny_model(tmp_path / "models"),
        "training_folders": {"photos": tmp_path / "photos"},
    }
    with serving(**settings) as app, grpc.insecure_channel(app.address) as channel:
        yield SimpleNamespace(
            jobs=job_pb2_grpc.JobServiceStub(channel),
            operations=operations_pb2_grpc.OperationsStub(channel),
            collections=collection_pb2_grpc.CollectionServiceStub(channel),
            styles=style_pb2_grpc.StyleServiceStub(channel),
            models=settings["models"],
            folders=settings["training_folders"],
            settings=JobSettings(redis=redis_server.url, artifacts=settings["artifacts"]),
        )


def request(**params: object) -> job_pb2.SubmitJobRequest:
    """A small training."""
    style = {"encoded": picture(7, 60)}
    small = {"steps": 2, "batch": 1, "size": 64, "width": 4, "name": "painter", "style": style}
    return job_pb2.SubmitJobRequest(model={"name": NAME}, train_style={**small, **params})


def work(plane: SimpleNamespace) -> job_pb2.TrainStyle:
    """What a worker does, done here; gives the request that it got."""
    with WorkerByHand(plane.settings) as worker:
        attempt = worker.take()
        taken = worker.request(attempt)
        networks = Networks(ModelRepository(plane.models), CPU, limit=1)
        network, manifest = networks.get(taken.model)
        images = decode_images(taken.train_style, manifest, CPU)
        files, host = CollectionFiles(plane.settings.artifacts_url()), Host(networks, folders=plane.folders)
        training = train_style(Task(taken.train_style, network, manifest, images, 0, CPU, files, host))
        report = techniques.finished(training)["train_style"]
        assert worker.store.succeed(attempt, job_pb2.JobResult(train_style=report))
        return taken.train_style


def add(plane: SimpleNamespace, numbers: range) -> None:
    """Pictures into the collection "shapes"."""
    parts = [collection_pb2.AddImagesRequest(collection="shapes")]
    for number in numbers:
        named = {"name": f"{number}.png", "encoded": picture(number, 80)}
        parts.append(collection_pb2.AddImagesRequest(image=named))
    assert not any(reply.error for reply in plane.collections.AddImages(iter(parts)))


def stylise(plane: SimpleNamespace, model: object) -> np.ndarray:
    image = {"tensor": wire.to_tensor(np.random.default_rng(0).random((3, 40, 50), np.float32))}
    _, tensors = tensors_of(plane.styles.Stylise(style_pb2.StyliseRequest(model=model, image=image)))
    return tensors["image"]


def test_what_is_trained_is_used_without_a_restart(plane) -> None:
    missing = error_of(plane.styles.Stylise, style_pb2.StyliseRequest(model={"name": "painter"}, image={}))
    assert isinstance(missing, errors.NotFound)
    name = plane.jobs.SubmitJob(request(folder="photos")).name
    taken = work(plane)
    assert (taken.folder, taken.steps, list(taken.shards)) == ("photos", 2, [])
    operation = plane.operations.GetOperation(operations_pb2.GetOperationRequest(name=name))
    result = job_pb2.JobResult()
    assert operation.response.Unpack(result)
    model = result.train_style.model
    assert (model.name, model.version) == ("painter", 1)
    first = stylise(plane, model)
    assert first.shape == (1, 3, 40, 50)
    plane.jobs.SubmitJob(request(folder="photos", learning_rate=0.1))
    work(plane)
    newest = stylise(plane, {"name": "painter"})
    assert not np.array_equal(newest, first)
    assert np.array_equal(newest, stylise(plane, {"name": "painter", "version": 2}))
    assert np.array_equal(first, stylise(plane, model))


def test_a_collection_is_learned_from_as_it_is_when_the_job_is_submitted(plane) -> None:
    plane.collections.CreateCollection(collection_pb2.CreateCollectionRequest(id="shapes"))
    empty = error_of(plane.jobs.SubmitJob, request(collection="shapes"))
    assert isinstance(empty, errors.FailedPrecondition)
    assert "no pictures" in empty.message
    add(plane, range(3))
    plane.jobs.SubmitJob(request(collection="shapes", shards=["00"]))
    add(plane, range(3, 5))
    (shard,) = work(plane).shards
    assert len(CollectionFiles(plane.settings.artifacts_url()).shard("shapes", shard)) == 3
    assert stylise(plane, {"name": "painter"}).shape == (1, 3, 40, 50)
    assert isinstance(error_of(plane.jobs.SubmitJob, request(collection="nothing")), errors.NotFound)


@pytest.mark.parametrize(
    ("params", "field", "text"),
    [
        ({}, "train_style.source", "one of collection, folder"),
        ({"folder": "/etc"}, "train_style.folder", "one of photos"),
        ({"folder": "photos", "name": NAME}, "train_style.name", "another name"),
        ({"folder": "photos", "name": "A b"}, "train_style.name", "1 to 64"),
        ({"folder": "photos", "size": 32}, "train_style.size", "between 64"),
        ({"folder": "photos", "steps": 1_000_000, "batch": 64, "size": 1024}, "train_style", "fewer"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused_before_it_is_queued(plane, params, field, text) -> None:
    error = error_of(plane.jobs.SubmitJob, request(**params))
    assert isinstance(error, errors.InvalidArgument)
    assert error.field == field
    assert text in error.message
