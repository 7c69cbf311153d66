"""The images of a collection that stand beside what is made for a unit."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from support.collection_service import COUNT, LAYER, PHOTOS
from support.collections import picture
from support.replies import error_of

from convlens import errors, wire
from convlens.v1 import job_pb2
from convlens_models.measures.receptive_field import receptive_field
from convlens_models.repository import ModelRepository


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
    name, _ = place.succeeded(request)
    found = place.artifact(name, "examples")
    assert found.shape == (12, 3, side, side)

    expected = (vectors["max"][:, channel], values[:, channel, 3, 5], -2 * vectors["mean"] @ vector)
    report = place.result(name).visualisation
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
