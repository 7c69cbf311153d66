"""StreamFeatures through a real server: the vectors, their order, memory, slow readers, bad images."""

from __future__ import annotations

import threading
import time

import grpc
import numpy as np
import psutil
import pytest
from support.parts import from_parts

from convlens import errors, wire
from convlens.v1 import image_pb2, inspection_pb2, inspection_pb2_grpc
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository

LAYER = "features.relu3_2"
RNG = np.random.default_rng(0)


@pytest.fixture
def stub(channel: grpc.Channel):
    return inspection_pb2_grpc.InspectionServiceStub(channel)


def options(**fields):
    return inspection_pb2.StreamFeaturesRequest(options={"layer": LAYER, **fields})


def named(name: str, pixels: np.ndarray) -> inspection_pb2.StreamFeaturesRequest:
    image = image_pb2.Image(tensor=wire.to_tensor(pixels))
    return inspection_pb2.StreamFeaturesRequest(image={"name": name, "image": image})


def pictures(count: int, side: int = 32) -> np.ndarray:
    return RNG.random((count, 3, side, side), np.float32)


def vectors(replies) -> dict[str, np.ndarray]:
    return from_parts(reply.tensor for reply in replies)


@pytest.mark.parametrize("pooling", ["POOLING_UNSPECIFIED", "POOLING_MEAN", "POOLING_MAX", "POOLING_FLATTEN"])
@pytest.mark.parametrize("normalise", [False, True])
def test_vectors_are_those_of_the_network(stub, pooling, normalise) -> None:
    import torch

    images = pictures(3, 96)
    with torch.no_grad():
        network = load_network(ModelRepository().get()).double()
        maps = network.taps(torch.from_numpy(images).double(), [LAYER])[LAYER].numpy()
    expected = {
        "POOLING_MAX": maps.max(axis=(2, 3)),
        "POOLING_FLATTEN": maps.reshape(3, -1),
    }.get(pooling, maps.mean(axis=(2, 3)))
    if normalise:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    asked = [options(pooling=pooling, normalise=normalise), *(named(str(i), x) for i, x in enumerate(images))]
    found = vectors(stub.StreamFeatures(iter(asked)))
    assert list(found) == ["0", "1", "2"]
    assert np.allclose(np.stack(list(found.values())), expected, atol=1e-4)


def test_answers_come_in_order_whatever_the_sizes(stub) -> None:
    images = [pictures(1, side)[0] for side in (200, 24, 24, 160, 24, 96, 24, 24)]
    asked = [options(), *(named(f"{i}", x) for i, x in enumerate(images))]
    assert list(vectors(stub.StreamFeatures(iter(asked)))) == [str(i) for i in range(len(images))]


def test_one_image_at_a_time_is_answered_at_once(stub) -> None:
    """A client that waits for each answer before it sends the next image is not kept waiting for a batch."""
    answered = threading.Semaphore(1)

    def requests():
        yield options()
        for i in range(3):
            assert answered.acquire(timeout=20)
            yield named(str(i), pictures(1)[0])

    seen = []
    for reply in stub.StreamFeatures(requests(), timeout=60):
        if reply.tensor.HasField("header"):
            seen.append(reply.tensor.header.name)
        else:
            answered.release()
    assert seen == ["0", "1", "2"]


def test_a_thousand_images_need_no_more_memory_than_a_hundred(stub) -> None:
    process, count = psutil.Process(), 1200
    base = {}

    def requests():
        yield options()
        for i in range(count):
            yield named(str(i), pictures(1, 64)[0])  # 48 KiB each, 58 MB together.

    seen = 0
    for reply in stub.StreamFeatures(requests()):
        seen += reply.tensor.HasField("header")
        if seen == 100:
            base.setdefault("rss", process.memory_info().rss)
    assert seen == count
    assert process.memory_info().rss - base["rss"] < 24 << 20


def test_a_slow_reader_holds_the_images_back(stub) -> None:
    """The server takes no more images than fit into buffers, while nobody takes its answers."""
    sent = 0

    def requests():
        nonlocal sent
        yield options(pooling="POOLING_FLATTEN", layer="features.conv1")
        for i in range(400):
            sent += 1
            yield named(str(i), pictures(1, 96)[0])  # The answers are larger than the images.

    replies = stub.StreamFeatures(requests())
    next(replies)
    previous = -1
    while sent != previous:
        previous = sent
        time.sleep(1.0)
    assert sent < 200
    assert sum(reply.tensor.HasField("header") for reply in replies) == 399


def bad(*requests):
    return iter(requests)


BAD = {
    "nothing": ([], "options", "sent once, first"),
    "an image first": ([named("a", np.zeros((3, 32, 32), np.float32))], "options", "sent once, first"),
    "unknown layer": ([options(layer="features.nothing")], "options.layer", "a layer of patterns"),
    "no layer": ([options(layer="")], "options.layer", "given"),
    "options twice": ([options(), options()], "image", "after the options"),
    "empty request": ([options(), inspection_pb2.StreamFeaturesRequest()], "image", "after the options"),
    "no name": ([options(), named("", np.zeros((3, 32, 32), np.float32))], "image[''].name", "given"),
    "NaN": (
        [options(), named("x{1}.png", np.full((3, 32, 32), np.nan, np.float32))],
        "image['x{1}.png']",
        "nan",
    ),
    "too many pixels": (
        [options(), named("big", np.zeros((3, 1000, 1000), np.float32))],
        "image['big'].image",
        "at most 600000 pixels",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_streams_are_told_what_is_wrong(stub, name) -> None:
    requests, field, text = BAD[name]
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.StreamFeatures(iter(requests), timeout=30))
    error = errors.from_rpc_error(raised.value)
    assert isinstance(error, errors.InvalidArgument)
    assert error.field.startswith(field), error
    assert text in error.message
    assert list(vectors(stub.StreamFeatures(bad(options(), named("a", pictures(1)[0]))))) == ["a"]


def test_answers_before_a_bad_image_arrive(stub) -> None:
    asked = [options(), named("good", pictures(1)[0]), named("bad", np.full((3, 32, 32), 2, np.float32))]
    seen = []
    replies = stub.StreamFeatures(iter(asked))

    def read():
        seen.extend(reply.tensor.header.name for reply in replies if reply.tensor.HasField("header"))

    with pytest.raises(grpc.RpcError):
        read()
    assert seen == ["good"]


def test_unknown_model_is_not_found(stub) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.StreamFeatures(iter([options(model={"name": "nothing"})])))
    assert isinstance(errors.from_rpc_error(raised.value), errors.NotFound)
