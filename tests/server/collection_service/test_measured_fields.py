"""Receptive fields measured over a collection by a job, beside the quick call's."""

from __future__ import annotations

import numpy as np
import pytest
from support.collection_service import COUNT, LAYER, PHOTOS
from support.replies import error_of, tensors_of

from convlens import errors, wire
from convlens.v1 import image_pb2, job_pb2, unit_pb2


def test_a_receptive_field_is_measured_in_the_images_that_excite_the_unit_most(place, values, inputs) -> None:
    """The job over the collection makes of them what the quick call makes of the same images."""
    channel, k = int(values.std(axis=(0, 2, 3)).argmax()), 3
    order = np.argsort(-values[:, channel].reshape(COUNT, -1).max(axis=1), kind="stable")[:k]
    occlusion = {"patch": 17, "stride": 11, "threshold": 0.3, "seed": 2}
    params = {"layer": LAYER, "channel": channel, "discrepancy": occlusion}
    job, _ = place.succeeded(
        job_pb2.SubmitJobRequest(measure_receptive_field={"collection": PHOTOS, "k": k, **params})
    )
    names = ("field", "maps", "images", "values", "positions", "sizes")
    made = {name: place.artifact(job, name) for name in names}
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
