"""Neighbours and top activations; the oracle is numpy over all vectors at once."""

from __future__ import annotations

import asyncio
import io

import numpy as np
import pytest
from PIL import Image
from support.collection_service import COUNT, LAYER, PHOTOS, SETS, features
from support.collections import picture
from support.replies import error_of

from convlens import errors
from convlens.v1 import collection_pb2 as pb
from convlens.v1 import image_pb2
from convlens_models.measures.receptive_field import receptive_field
from convlens_models.repository import ModelRepository
from convlens_workers.collections.index import CollectionIndex


def distances(vectors: np.ndarray, query: np.ndarray, metric: int) -> np.ndarray:
    if metric == pb.METRIC_L2:
        return np.linalg.norm(vectors.astype(np.float64) - query, axis=1)
    return 1 - vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)


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


def test_an_image_that_comes_during_a_search_is_not_seen_in_part(
    place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is known to the collection only after the search has read the order of the images."""
    place.create("late")
    place.add("late", {"1.png": picture(1)})
    place.extract("late")
    order = CollectionIndex.order

    async def then_one_more(self: CollectionIndex, id_: str, *limits: int) -> list[str]:
        found = await order(self, id_, *limits)
        await asyncio.to_thread(place.add, "late", {"2.png": picture(2)})
        return found

    monkeypatch.setattr(CollectionIndex, "order", then_one_more)
    request = pb.FindNearestRequest(id="late", features=features(), name="2.png")
    assert isinstance(error_of(place.collections.FindNearest, request), errors.NotFound)
