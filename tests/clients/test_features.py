"""Feature vectors over a stream each way, by both kinds of client."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from convlens import errors, wire
from convlens.v1 import inspection_pb2
from convlens_client import AsyncClient
from convlens_client.features import FeatureVector


def pictures(count, seen=None):
    for i in range(count):
        if seen is not None:
            seen.append(i)
        yield np.full((3, 8, 8), i / count, np.float32)


def test_vectors_come_in_order_with_positions_as_names(client, service):
    vectors = list(client.features(pictures(5), "a", pooling="max", normalise=True, model="m/2"))
    assert all(isinstance(item, FeatureVector) for item in vectors)
    assert [item.name for item in vectors] == ["0", "1", "2", "3", "4"]
    assert [item.vector.tolist() for item in vectors] == [[i + 1] * 3 for i in range(5)]
    options = service.requests[0].options
    assert (options.layer, options.normalise, options.model.name) == ("a", True, "m")
    assert options.pooling == inspection_pb2.POOLING_MAX


def test_paths_and_pairs_have_names_of_their_own(client, tmp_path, pixels):
    path = tmp_path / "cat.png"
    path.write_bytes(wire.encode_image(pixels))
    vectors = list(client.features([path, str(path), ("dog", pixels), pixels], "a"))
    assert [item.name for item in vectors] == [str(path), str(path), "dog", "3"]


def test_images_are_taken_lazily(client):
    """An endless source is no problem for who stops reading."""
    seen = []
    stream = client.features(pictures(100_000, seen), "a")
    assert next(stream).name == "0"
    stream.close()
    assert len(seen) < 100_000


def test_a_failing_source_and_a_bad_image_raise_where_the_vectors_are_read(client):
    def source():
        yield np.zeros((3, 8, 8), np.float32)
        raise OSError("the disk is gone")

    stream = client.features(source(), "a")
    assert next(stream).name == "0"
    with pytest.raises(OSError, match="the disk is gone"):
        list(stream)
    with pytest.raises(errors.InvalidArgument, match=r"image\['1'\]"):
        list(client.features([np.zeros((3, 8, 8), np.float32), 7], "a"))
    with pytest.raises(errors.NotFound, match="nowhere"):
        list(client.features(["nowhere.png"], "a"))
    with pytest.raises(errors.InvalidArgument, match="pooling"):
        list(client.features([], "a", pooling="median"))


def test_no_images_give_no_vectors(client):
    assert list(client.features([], "a")) == []


def test_a_server_that_is_away_is_unavailable(connect):
    with pytest.raises(errors.Unavailable):
        list(connect("127.0.0.1:1").features(pictures(1), "a"))


async def test_async_sources_are_taken_too(address):
    async def source():
        for image in pictures(3):
            await asyncio.sleep(0)
            yield image

    async with AsyncClient(address) as client:
        names = [item.name async for item in client.features(source(), "a")]
    assert names == ["0", "1", "2"]


async def test_a_blocking_source_has_a_thread_of_its_own(address):
    threads = []

    def source():
        for image in pictures(2):
            threads.append(threading.current_thread())
            yield image

    async with AsyncClient(address) as client:
        assert len([item async for item in client.features(source(), "a")]) == 2
    assert threading.main_thread() not in threads


def test_robustness_is_a_curve_with_alarms(client, service, pixels):
    curve = client.robustness([pixels, pixels], [1, 2], "pgd", epsilons=[0.5, 1], norm="l2", restarts=3)
    assert [point.accuracy for point in curve.points] == [1, 0.5, 0]
    assert curve.alarms.raised == ("survives_full_range",)
    request = service.requests[0]
    assert list(request.labels) == [1, 2]
    assert list(request.epsilons) == [0.5, 1]
    assert (request.pgd.norm, request.pgd.restarts) == (2, 3)
    assert not request.pgd.HasField("steps")


def test_attack_parameters_go_to_the_method_that_knows_them(client, service, pixels):
    client.attack(pixels, "bim", epsilon=0.1, steps=3, step_size=0.05)
    bim = service.requests[0].bim
    assert (bim.epsilon, bim.steps, bim.step_size) == pytest.approx((0.1, 3, 0.05))
    client.attack(pixels, "pgd", start_at_image=True, seed=4)
    assert service.requests[1].pgd.start_at_image
    assert service.requests[1].pgd.seed == 4
    for arguments, text in (
        (("fgsm", {"steps": 3}), "left out with fgsm"),
        (("bim", {"norm": "l2"}), "left out with bim"),
        (("pgd", {"norm": "l1"}), "one of linf, l2"),
        (("deepfool", {}), "one of fgsm, bim, pgd"),
    ):
        with pytest.raises(errors.InvalidArgument, match=text):
            client.attack(pixels, arguments[0], **arguments[1])
    assert len(service.requests) == 2


def test_activations_are_asked_for_by_channel_or_top(client, service, pixels):
    client.activations(pixels, "a", channel=0)
    assert service.requests[0].HasField("channel")
    assert client.activations(pixels, "a", top=4)["a.channels"].tolist() == [[0, 1, 2, 3]]
    client.activations(pixels, "a")
    assert service.requests[2].WhichOneof("channels") is None
    with pytest.raises(errors.InvalidArgument, match="left out with top"):
        client.activations(pixels, "a", channel=1, top=2)


def test_a_stylised_image_keeps_the_axis_of_images(client, service, pixels):
    assert client.stylise(pixels, "painter", tile=512, resize=64).shape == (1, 3, 20, 30)
    request = service.requests[0]
    assert (request.model.name, request.tile, request.image.resize.fit.max_side) == ("painter", 512, 64)
