"""CollectionService with a real server, Redis and worker; the oracle is numpy over all vectors at once."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.longrunning import operations_pb2, operations_pb2_grpc
from PIL import Image
from support.collections import picture
from support.redis_server import RedisServer
from support.replies import error_of, tensors_of
from support.server_thread import serving
from support.worker_process import WorkerProcess

from convlens import errors, wire
from convlens.v1 import collection_pb2 as pb
from convlens.v1 import (
    collection_pb2_grpc,
    image_pb2,
    inspection_pb2,
    job_pb2,
    job_pb2_grpc,
    unit_pb2,
    unit_pb2_grpc,
)
from convlens_models.preprocess import to_input
from convlens_models.receptive_field import receptive_field
from convlens_models.repository import ModelRepository
from convlens_server.engines.cache import LruCache
from convlens_server.engines.onnx_engine import OnnxEngine
from convlens_server.engines.providers import on_cpu
from convlens_workers.settings import WorkerSettings

LAYER = "features.relu4_2"
COUNT = 60
SETS = ("mean", "max", "flatten")
PHOTOS = "photos"


class Place:
    """A server, its channel, and what it has been filled with."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.collections = collection_pb2_grpc.CollectionServiceStub(channel)
        self.jobs = job_pb2_grpc.JobServiceStub(channel)
        self.units = unit_pb2_grpc.UnitServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)

    def add(self, id_: str, files: dict[str, bytes]) -> list[pb.AddImagesResponse]:
        parts = [pb.AddImagesRequest(collection=id_)]
        parts += [pb.AddImagesRequest(image=pb.NamedFile(name=n, encoded=f)) for n, f in files.items()]
        return list(self.collections.AddImages(iter(parts)))

    def extract(self, id_: str, layer: str = LAYER, **fields: Any) -> job_pb2.JobMetadata:
        params = job_pb2.ExtractFeatures(collection=id_, layers=[layer], **fields)
        operation = self.jobs.SubmitJob(job_pb2.SubmitJobRequest(extract_features=params))
        events = list(self.jobs.WatchJob(job_pb2.WatchJobRequest(name=operation.name), timeout=60))
        assert events[-1].metadata.state == job_pb2.JOB_STATE_SUCCEEDED, events[-1]
        return events[-1].metadata

    def create(self, id_: str) -> pb.Collection:
        return self.collections.CreateCollection(pb.CreateCollectionRequest(id=id_)).collection


@pytest.fixture(scope="module")
def place(shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """60 pictures in the collection "photos", with all features of one layer."""
    shared_redis.flush()
    folder = tmp_path_factory.mktemp("place")
    settings = {
        "redis": shared_redis.url,
        "artifacts": str(folder / "artifacts"),
        "models": folder / "models",
    }
    worker = WorkerProcess(WorkerSettings(**settings), folder)
    limits = {"max_collection_images": 70, "max_image_bytes": 300_000, "indexes": folder / "indexes"}
    try:
        with serving(**settings, **limits) as app, grpc.insecure_channel(app.address) as channel:
            place = Place(channel)
            place.create(PHOTOS)
            place.add(PHOTOS, {f"{n}.png": picture(n) for n in range(COUNT)})
            worker.ready()
            poolings = [inspection_pb2.Pooling.Value(f"POOLING_{name.upper()}") for name in SETS]
            place.extract(PHOTOS, poolings=poolings)
            yield place
    finally:
        worker.end()


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    """What the network gets to see of the pictures."""
    manifest = ModelRepository().get().manifest
    return np.stack([to_input(image_pb2.Image(encoded=picture(n)), manifest) for n in range(COUNT)])


@pytest.fixture(scope="module")
def values(inputs: np.ndarray) -> np.ndarray:
    engine = OnnxEngine(ModelRepository().get(), LruCache(1e9), on_cpu(1))
    return engine.forward(inputs, [LAYER])[LAYER]


@pytest.fixture(scope="module")
def vectors(values: np.ndarray) -> dict[str, np.ndarray]:
    flat = values.reshape(COUNT, values.shape[1], -1)
    return {"mean": flat.mean(axis=2), "max": flat.max(axis=2), "flatten": flat.reshape(COUNT, -1)}


def distances(vectors: np.ndarray, query: np.ndarray, metric: int) -> np.ndarray:
    if metric == pb.METRIC_L2:
        return np.linalg.norm(vectors.astype(np.float64) - query, axis=1)
    return 1 - vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)


def features(pooling: str = "mean", layer: str = LAYER) -> pb.FeatureRef:
    return pb.FeatureRef(layer=layer, pooling=inspection_pb2.Pooling.Value(f"POOLING_{pooling.upper()}"))


@pytest.mark.parametrize("metric", [pb.METRIC_COSINE, pb.METRIC_L2])
@pytest.mark.parametrize("pooling", SETS)
def test_nearest_are_those_of_brute_force(place, vectors, pooling, metric) -> None:
    for number in (0, 31, 59):
        reply = place.collections.FindNearest(
            pb.FindNearestRequest(
                id=PHOTOS, features=features(pooling), name=f"{number}.png", k=9, metric=metric
            )
        )
        expected = distances(vectors[pooling], vectors[pooling][number], metric)
        order = [n for n in np.argsort(expected, kind="stable") if n != number][:9]
        assert [n.image.name for n in reply.neighbours] == [f"{n}.png" for n in order]
        found = [n.distance for n in reply.neighbours]
        np.testing.assert_allclose(found, expected[order], rtol=1e-3, atol=1e-5)
        assert reply.recall_at_10 == 1


def test_nearest_to_any_image_with_thumbnails(place) -> None:
    request = pb.FindNearestRequest(
        id=PHOTOS, features=features(), image=image_pb2.Image(encoded=picture(17)), k=3, thumbnail=16
    )
    reply = place.collections.FindNearest(request)
    assert reply.neighbours[0].image.name == "17.png"
    assert reply.neighbours[0].distance < 1e-5
    for neighbour in reply.neighbours:
        image = Image.open(io.BytesIO(neighbour.thumbnail))
        assert (image.format, image.size) == ("JPEG", (16, 16))


@pytest.mark.parametrize("metric", [pb.METRIC_COSINE, pb.METRIC_L2])
def test_an_index_finds_nearly_all_and_says_how_many(place, metric) -> None:
    request = pb.FindNearestRequest(
        id=PHOTOS, features=features(), name="5.png", k=10, metric=metric, approximate=True
    )
    reply = place.collections.FindNearest(request)
    assert reply.recall_at_10 >= 0.95
    request.approximate = False
    exact = place.collections.FindNearest(request)
    same = {n.image.name for n in reply.neighbours} & {n.image.name for n in exact.neighbours}
    assert len(reply.neighbours) == 10
    assert len(same) >= 9
    assert "5.png" not in {n.image.name for n in reply.neighbours}
    both = {n.image.name: n.distance for n in exact.neighbours}
    for neighbour in reply.neighbours:
        if neighbour.image.name in both:
            assert neighbour.distance == pytest.approx(both[neighbour.image.name], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("channel", [0, 31, 127])
def test_top_activations_are_those_of_brute_force(place, values, inputs, channel) -> None:
    request = pb.FindTopActivationsRequest(id=PHOTOS, layer=LAYER, channel=channel, k=7)
    found = place.collections.FindTopActivations(request).activations
    peaks = values[:, channel].reshape(COUNT, -1).max(axis=1)
    expected = np.argsort(-peaks, kind="stable")[:7]
    assert [hit.image.name for hit in found] == [f"{n}.png" for n in expected]
    np.testing.assert_allclose([hit.hit.value for hit in found], peaks[expected], rtol=1e-4)
    layer = ModelRepository().get().manifest.layer(LAYER)
    for number, hit in zip(expected, found, strict=True):
        place_ = np.unravel_index(values[number, channel].argmax(), values.shape[2:])
        assert (hit.hit.y, hit.hit.x) == place_
        box = receptive_field(layer, *map(int, place_), inputs.shape[2:]).clipped(inputs.shape[2:])
        crop = np.asarray(Image.open(io.BytesIO(hit.crop))).transpose(2, 0, 1)
        np.testing.assert_array_equal(crop, np.rint(inputs[(number, slice(None), *box.pixels)] * 255))
        assert not hit.pattern


def test_patterns_have_the_size_of_their_crops(place) -> None:
    request = pb.FindTopActivationsRequest(id=PHOTOS, layer=LAYER, channel=31, k=2, with_patterns=True)
    for hit in place.collections.FindTopActivations(request).activations:
        sizes = {Image.open(io.BytesIO(file)).size for file in (hit.crop, hit.pattern)}
        assert len(sizes) == 1


def test_pca_is_that_of_the_singular_values(place, vectors) -> None:
    request = pb.MapCollectionRequest(id=PHOTOS, features=features())
    _, tensors = tensors_of(place.collections.MapCollection(request))
    centred = vectors["mean"].astype(np.float64) - vectors["mean"].mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    points = left[:, :2] * singular[:2]
    shares = singular**2 / (singular**2).sum()
    np.testing.assert_allclose(tensors["explained_variance"], shares[:2], rtol=1e-3)
    found = tensors["map"]
    assert found.shape == (COUNT, 2)
    assert found.min() >= 0
    assert found.max() == pytest.approx(1)
    for axis in range(2):
        assert abs(np.corrcoef(found[:, axis], points[:, axis])[0, 1]) > 0.9999
    assert np.ptp(found[:, 1]) / np.ptp(found[:, 0]) == pytest.approx(
        np.ptp(points[:, 1]) / np.ptp(points[:, 0]), rel=1e-2
    ) or np.ptp(points[:, 1]) > np.ptp(points[:, 0])


def test_tsne_follows_its_seed(place) -> None:
    request = pb.MapCollectionRequest(
        id=PHOTOS, features=features(), projection=pb.PROJECTION_TSNE, perplexity=5
    )
    first, second = (tensors_of(place.collections.MapCollection(request))[1]["map"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (COUNT, 2)
    assert np.isfinite(first).all()


def test_a_collection_tells_of_its_images_and_features(place) -> None:
    found = place.collections.GetCollection(pb.GetCollectionRequest(id=PHOTOS)).collection
    assert found.images == COUNT
    assert found.total_bytes == sum(len(picture(n)) for n in range(COUNT))
    assert {(f.layer, f.pooling, f.images) for f in found.features} >= {
        (LAYER, inspection_pb2.POOLING_MEAN, COUNT),
        (LAYER, inspection_pb2.POOLING_MAX, COUNT),
        (LAYER, inspection_pb2.POOLING_FLATTEN, COUNT),
    }
    dimensions = {f.pooling: f.dimension for f in found.features if f.layer == LAYER}
    assert dimensions == {1: 128, 2: 128, 3: 128 * 144}


def test_images_are_kept_once_and_named_apart(place) -> None:
    place.create("names")
    first = place.add("names", {"a.png": picture(1), "b.png": picture(1)})
    assert [(r.image.name, r.duplicate) for r in first] == [("a.png", False), ("a.png", True)]
    again = [place.add("names", {"a.png": picture(n)})[0].image.name for n in (2, 3, 1)]
    assert again == ["a.png (2)", "a.png (3)", "a.png"]
    bad = place.add("names", {"junk": b"junk", "strip": strip(), "big": b"x" * 300_001, "c.png": picture(4)})
    assert [bool(r.error) for r in bad] == [True, True, True, False]
    assert "PNG" in bad[0].error
    assert "32 times" in bad[1].error
    assert "300000" in bad[2].error
    names: list[str] = []
    token = ""
    while True:
        page = place.collections.ListImages(pb.ListImagesRequest(id="names", page_size=2, page_token=token))
        names += [image.name for image in page.images]
        if not (token := page.next_page_token):
            break
    assert names == ["a.png", "a.png (2)", "a.png (3)", "c.png"]
    whole = place.collections.GetImage(pb.GetImageRequest(id="names", image="a.png (2)"))
    assert whole.encoded == picture(2)
    assert (whole.image.width, whole.image.height) == (40, 40)


def strip() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (330, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def test_new_images_are_all_that_is_extracted(place) -> None:
    place.create("growing")
    place.add("growing", {f"{n}.png": picture(n) for n in range(20)})
    assert place.extract("growing").total_steps == 20
    place.add("growing", {f"{n}.png": picture(n) for n in range(25)})
    lacking = pb.FindNearestRequest(id="growing", features=features(), name="1.png")
    error = error_of(place.collections.FindNearest, lacking)
    assert isinstance(error, errors.FailedPrecondition)
    assert error.reason == "NO_FEATURES"
    assert "5 of 25 images" in error.message
    assert "extract_features" in error.message
    assert place.extract("growing").total_steps == 5
    assert len(place.collections.FindNearest(lacking).neighbours) == 10
    assert place.extract("growing").total_steps == 0


def test_a_full_collection_refuses_more(place) -> None:
    place.create("full")
    with pytest.raises(grpc.RpcError) as raised:
        place.add("full", {f"{n}.png": picture(n) for n in range(71)})
    error = errors.from_rpc_error(raised.value)
    assert isinstance(error, errors.ResourceExhausted)
    assert error.reason == "COLLECTION_FULL"
    assert place.collections.GetCollection(pb.GetCollectionRequest(id="full")).collection.images == 70


def test_deleted_collections_leave_nothing(place, tmp_path: Path) -> None:
    place.create("gone")
    place.add("gone", {"a.png": picture(1)})
    place.collections.DeleteCollection(pb.DeleteCollectionRequest(id="gone"))
    for method, request in (
        (place.collections.GetCollection, pb.GetCollectionRequest(id="gone")),
        (place.collections.ListImages, pb.ListImagesRequest(id="gone")),
        (place.collections.GetImage, pb.GetImageRequest(id="gone", image="a.png")),
        (place.collections.DeleteCollection, pb.DeleteCollectionRequest(id="gone")),
        (place.collections.FindNearest, pb.FindNearestRequest(id="gone", features=features(), name="a.png")),
    ):
        assert isinstance(error_of(method, request), errors.NotFound), request
    assert place.create("gone").images == 0
    ids = [
        c.id for c in place.collections.ListCollections(pb.ListCollectionsRequest(page_size=1)).collections
    ]
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("method", "request_", "field", "kind"),
    [
        ("CreateCollection", pb.CreateCollectionRequest(id="No Capitals"), "id", errors.InvalidArgument),
        ("CreateCollection", pb.CreateCollectionRequest(), "id", errors.InvalidArgument),
        ("CreateCollection", pb.CreateCollectionRequest(id=PHOTOS), "id", errors.AlreadyExists),
        ("ListImages", pb.ListImagesRequest(id=PHOTOS, page_token="x"), "page_token", errors.InvalidArgument),
        ("ListCollections", pb.ListCollectionsRequest(page_size=0), "page_size", errors.InvalidArgument),
        (
            "FindNearest",
            pb.FindNearestRequest(id=PHOTOS, features=features(layer="nothing"), name="1.png"),
            "features.layer",
            errors.InvalidArgument,
        ),
        (
            "FindNearest",
            pb.FindNearestRequest(id=PHOTOS, features=features()),
            "query",
            errors.InvalidArgument,
        ),
        (
            "FindNearest",
            pb.FindNearestRequest(id=PHOTOS, features=features(), name="1.png", k=1001),
            "k",
            errors.InvalidArgument,
        ),
        (
            "FindNearest",
            pb.FindNearestRequest(id=PHOTOS, features=features(), image={"encoded": b"junk"}),
            "image.encoded",
            errors.InvalidArgument,
        ),
        (
            "FindTopActivations",
            pb.FindTopActivationsRequest(id=PHOTOS, layer=LAYER, channel=128),
            "channel",
            errors.InvalidArgument,
        ),
        (
            "FindTopActivations",
            pb.FindTopActivationsRequest(id=PHOTOS, layer="features.relu1", channel=1),
            "",
            errors.FailedPrecondition,
        ),
        (
            "MapCollection",
            pb.MapCollectionRequest(id=PHOTOS, features=features("flatten")),
            "features",
            errors.InvalidArgument,
        ),
        (
            "MapCollection",
            pb.MapCollectionRequest(id=PHOTOS, features=features(), projection=2, perplexity=30),
            "perplexity",
            errors.InvalidArgument,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_requests(place, method, request_, field, kind) -> None:
    error = error_of(getattr(place.collections, method), request_)
    assert isinstance(error, kind), error
    assert error.field == field


def test_bad_streams_and_jobs(place) -> None:
    image = pb.AddImagesRequest(image=pb.NamedFile(name="a", encoded=picture(1)))
    named = pb.AddImagesRequest(collection=PHOTOS)
    for parts, kind in (
        ([image], errors.InvalidArgument),
        ([named, named], errors.InvalidArgument),
        ([pb.AddImagesRequest(collection="nothing")], errors.NotFound),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            list(place.collections.AddImages(iter(parts)))
        assert isinstance(errors.from_rpc_error(raised.value), kind)
    for fields, kind in (
        ({"collection": "nothing", "layers": [LAYER]}, errors.NotFound),
        ({"collection": PHOTOS}, errors.InvalidArgument),
        ({"collection": PHOTOS, "layers": ["features.relu2"], "poolings": [3]}, errors.InvalidArgument),
    ):
        request = job_pb2.SubmitJobRequest(extract_features=job_pb2.ExtractFeatures(**fields))
        assert isinstance(error_of(place.jobs.SubmitJob, request), kind), fields


def test_a_receptive_field_is_measured_in_the_images_that_excite_the_unit_most(place, values, inputs) -> None:
    """The job over the collection makes of them what the quick call makes of the same images."""
    channel, k = int(values.std(axis=(0, 2, 3)).argmax()), 3
    order = np.argsort(-values[:, channel].reshape(COUNT, -1).max(axis=1), kind="stable")[:k]
    occlusion = {"patch": 17, "stride": 11, "threshold": 0.3, "seed": 2}
    params = {"layer": LAYER, "channel": channel, "discrepancy": occlusion}
    operation = place.jobs.SubmitJob(
        job_pb2.SubmitJobRequest(measure_receptive_field={"collection": PHOTOS, "k": k, **params})
    )
    events = list(place.jobs.WatchJob(job_pb2.WatchJobRequest(name=operation.name), timeout=60))
    assert events[-1].metadata.state == job_pb2.JOB_STATE_SUCCEEDED, events[-1]
    names = ("field", "maps", "images", "values", "positions", "sizes")
    made = {
        name: tensors_of(
            place.jobs.ReadArtifact(job_pb2.ReadArtifactRequest(name=operation.name, artifact=name))
        )[1][name]
        for name in names
    }
    images = [image_pb2.Image(tensor=wire.to_tensor(image)) for image in inputs[order]]
    quick = place.units.GetDiscrepancyMaps(unit_pb2.GetDiscrepancyMapsRequest(images=images, **params))
    result, tensors = tensors_of(quick)
    np.testing.assert_array_equal(made["images"], inputs[order])
    np.testing.assert_allclose(made["maps"], tensors["maps"], rtol=1e-2, atol=1e-4 * tensors["maps"].max())
    np.testing.assert_allclose(made["field"], tensors["field"], rtol=1e-2, atol=1e-4 * tensors["field"].max())
    assert made["values"] == pytest.approx([hit.value for hit in result.hits], rel=1e-4)
    assert made["positions"].tolist() == [[hit.y, hit.x] for hit in result.hits]
    assert made["sizes"] == pytest.approx([result.theoretical_size, result.empirical_size], abs=0.5)


@pytest.mark.parametrize(
    ("fields", "field", "kind"),
    [
        ({"collection": "nothing"}, "", errors.NotFound),
        ({"collection": ""}, "measure_receptive_field.collection", errors.InvalidArgument),
        ({"layer": "features.relu1"}, "", errors.FailedPrecondition),
        ({"layer": "classifier"}, "measure_receptive_field.layer", errors.InvalidArgument),
        ({"layer": "nothing"}, "measure_receptive_field.layer", errors.InvalidArgument),
        ({"channel": 5000}, "measure_receptive_field.channel", errors.InvalidArgument),
        ({"k": 101}, "measure_receptive_field.k", errors.InvalidArgument),
        (
            {"discrepancy": {"patch": 97}},
            "measure_receptive_field.discrepancy.patch",
            errors.InvalidArgument,
        ),
        (
            {"discrepancy": {"patch": 3, "stride": 4}},
            "measure_receptive_field.discrepancy.stride",
            errors.InvalidArgument,
        ),
    ],
)
def test_bad_measurements_are_refused_before_they_are_queued(place, fields, field, kind) -> None:
    params = {"collection": PHOTOS, "layer": LAYER, "channel": 1, "discrepancy": {}, **fields}
    error = error_of(place.jobs.SubmitJob, job_pb2.SubmitJobRequest(measure_receptive_field=params))
    assert isinstance(error, kind), error
    if field:
        assert error.field == field


def visualisation(*targets: dict[str, Any], **fields: Any) -> job_pb2.SubmitJobRequest:
    objectives = [{"terms": [{"target": target}]} for target in targets]
    params = {"collection": PHOTOS, "examples": 4, "steps": 1, "size": 96, **fields}
    return job_pb2.SubmitJobRequest(feature_visualisation={"objectives": objectives, **params})


def test_examples_stand_beside_what_is_made_for_a_unit(place, values, vectors, inputs) -> None:
    """Ranked and cut out as brute force over all values does it."""
    channel, side = int(values.std(axis=(0, 2, 3)).argmax()), inputs.shape[2]
    vector = np.random.default_rng(0).normal(size=values.shape[1]).astype(np.float32)
    request = visualisation(
        {"channel": {"layer": LAYER, "channel": channel}},
        {"neuron": {"layer": LAYER, "channel": channel, "y": 3, "x": 5}},
        {"direction": {"layer": LAYER, "vector": wire.to_tensor(vector)}},
    )
    request.feature_visualisation.objectives[2].terms[0].weight = -2
    operation = place.jobs.SubmitJob(request)
    events = list(place.jobs.WatchJob(job_pb2.WatchJobRequest(name=operation.name), timeout=60))
    assert events[-1].metadata.state == job_pb2.JOB_STATE_SUCCEEDED, events[-1]
    artifact = job_pb2.ReadArtifactRequest(name=operation.name, artifact="examples")
    found = tensors_of(place.jobs.ReadArtifact(artifact))[1]["examples"]
    assert found.shape == (12, 3, side, side)

    expected = (vectors["max"][:, channel], values[:, channel, 3, 5], -2 * vectors["mean"] @ vector)
    report = finished(place, operation.name).visualisation
    digests = [hashlib.sha256(picture(number)).hexdigest() for number in range(COUNT)]
    orders = [np.argsort(-ranked, kind="stable")[:4] for ranked in expected]
    for item, ranked, order in zip(report.examples, expected, orders, strict=True):
        assert list(item.images) == [digests[number] for number in order]
        np.testing.assert_allclose(item.values, ranked[order], rtol=1e-3, atol=1e-5)

    np.testing.assert_array_equal(found[8:], inputs[orders[2]])
    layer = ModelRepository().get().manifest.layer(LAYER)
    places = [np.unravel_index(values[n, channel].argmax(), values.shape[2:]) for n in orders[0]]
    places += [(3, 5)] * 4
    for crop, number, where in zip(found, np.concatenate(orders[:2]), places, strict=False):
        rows, columns = receptive_field(layer, *map(int, where), (side, side)).moved_into((side, side)).pixels
        assert rows.stop - rows.start == columns.stop - columns.start == layer.receptive_field
        image = torch.from_numpy(inputs[number][None, :, rows, columns])
        whole = torch.nn.functional.interpolate(image, (side, side), mode="bilinear", antialias=True)
        np.testing.assert_allclose(crop, whole[0], atol=1e-5)


def finished(place: Place, name: str) -> job_pb2.JobResult:
    result = job_pb2.JobResult()
    place.operations.GetOperation(operations_pb2.GetOperationRequest(name=name)).response.Unpack(result)
    return result


CHANNEL = {"channel": {"layer": LAYER, "channel": 1}}


@pytest.mark.parametrize(
    ("request_", "field", "kind"),
    [
        (visualisation(CHANNEL, collection="nothing"), "", errors.NotFound),
        (visualisation({"channel": {"layer": "features.relu1"}}), "", errors.FailedPrecondition),
        (visualisation({"class_score": {"index": 1}}), "", errors.FailedPrecondition),
        (visualisation(CHANNEL, examples=65), "examples", errors.InvalidArgument),
        (visualisation(*[CHANNEL] * 32, examples=33), "examples", errors.InvalidArgument),
        (
            visualisation(CHANNEL, {"class_score": {}}),
            "objectives[1].terms[0].target.class_score.index",
            errors.InvalidArgument,
        ),
        (
            visualisation({"channel": {"layer": LAYER, "channel": 128}}),
            "objectives[0].terms[0].target.channel.channel",
            errors.InvalidArgument,
        ),
        (
            visualisation({"neuron": {"layer": LAYER, "channel": 1, "y": 99}}),
            "objectives[0].terms[0].target.neuron.y",
            errors.InvalidArgument,
        ),
        (
            visualisation({"neuron": {"layer": "features.relu1"}}),
            "objectives[0].terms[0].target.neuron.layer",
            errors.InvalidArgument,
        ),
        (
            visualisation({"direction": {"layer": LAYER, "vector": wire.to_tensor(np.ones(3, np.float32))}}),
            "objectives[0].terms[0].target.direction.vector",
            errors.InvalidArgument,
        ),
        (
            job_pb2.SubmitJobRequest(
                feature_visualisation={
                    "collection": PHOTOS,
                    "objectives": [{"terms": [{"target": CHANNEL}, {"target": CHANNEL}]}],
                }
            ),
            "objectives[0].terms",
            errors.InvalidArgument,
        ),
    ],
)
def test_examples_that_there_cannot_be_are_refused_before_they_are_queued(
    place, request_, field, kind
) -> None:
    error = error_of(place.jobs.SubmitJob, request_)
    assert isinstance(error, kind), error
    if field:
        assert error.field == f"feature_visualisation.{field}"
    if kind is errors.FailedPrecondition:
        assert "submit extract_features" in error.message


def test_who_adds_images_is_sent_to_another_server_when_this_one_ends(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    sending, ended = threading.Event(), threading.Event()

    def parts() -> Iterator[pb.AddImagesRequest]:
        yield pb.AddImagesRequest(collection="open")
        yield pb.AddImagesRequest(image=pb.NamedFile(name="a.png", encoded=picture(1)))
        sending.set()
        ended.wait(20)

    settings = {"redis": shared_redis.url, "artifacts": str(tmp_path)}
    with ExitStack() as channels:
        with serving(**settings, grace=15) as app:
            place = Place(channels.enter_context(grpc.insecure_channel(app.address)))
            place.create("open")
            answers = place.collections.AddImages(parts())
            assert next(answers).image.name == "a.png"
            began = time.monotonic()
        assert time.monotonic() - began < 10
        with pytest.raises(grpc.RpcError) as raised:
            next(answers)
        ended.set()
    assert isinstance(errors.from_rpc_error(raised.value), errors.Unavailable)


def test_the_server_starts_without_the_libraries_for_searches() -> None:
    code = "import sys, convlens_server.app; print(*(sys.modules.keys() & {'sklearn', 'usearch', 'torch'}))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == ""


def test_libraries_that_are_missing_are_named(place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("usearch", "sklearn.manifold"):
        monkeypatch.setitem(sys.modules, name, None)
    request = pb.MapCollectionRequest(
        id=PHOTOS, features=features(), projection=pb.PROJECTION_TSNE, perplexity=5
    )
    error = error_of(place.collections.MapCollection, request)
    assert error.reason == "NOT_INSTALLED"
    assert "convlens[maps]" in error.message
    near = pb.FindNearestRequest(
        id=PHOTOS, features=features("max"), name="1.png", approximate=True, metric=pb.METRIC_L2
    )
    error = error_of(place.collections.FindNearest, near)
    assert error.reason == "NOT_INSTALLED"
    assert "convlens[search]" in error.message


def test_without_redis_there_are_no_collections(channel: grpc.Channel) -> None:
    stub = collection_pb2_grpc.CollectionServiceStub(channel)
    error = error_of(stub.ListCollections, pb.ListCollectionsRequest())
    assert isinstance(error, errors.FailedPrecondition)
    assert error.reason == "NO_LONG_LANE"
