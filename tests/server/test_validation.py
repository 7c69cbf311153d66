"""Bounds of the proto, field by field."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from convlens.errors import InvalidArgument
from convlens.v1 import attack_pb2, attribution_pb2, bounds_pb2, image_pb2, inspection_pb2, job_pb2, model_pb2
from convlens_models.manifest import Manifest
from convlens_server.request.validation import validate

IMAGE = image_pb2.Image(encoded=b"a picture")
INF = float("inf")
NAN = float("nan")


def classify(**fields: Any) -> inspection_pb2.ClassifyRequest:
    return inspection_pb2.ClassifyRequest(**{"images": [IMAGE], **fields})


def attribute(**fields: Any) -> attribution_pb2.AttributeRequest:
    attribution = attribution_pb2.Attribution(**{"gradient": {}, **fields})
    return attribution_pb2.AttributeRequest(images=[IMAGE], attributions=[attribution])


def fgsm(**fields: Any) -> attack_pb2.AttackRequest:
    return attack_pb2.AttackRequest(images=[IMAGE], fgsm=attack_pb2.Fgsm(), **fields)


def epsilon(value: float) -> attack_pb2.AttackRequest:
    return attack_pb2.AttackRequest(images=[IMAGE], fgsm=attack_pb2.Fgsm(epsilon=value))


def dream(**fields: Any) -> job_pb2.SubmitJobRequest:
    return job_pb2.SubmitJobRequest(deepdream=job_pb2.DeepDream(**{"image": IMAGE, **fields}))


def submit(**fields: Any) -> job_pb2.SubmitJobRequest:
    return job_pb2.SubmitJobRequest(deepdream=job_pb2.DeepDream(image=IMAGE), **fields)


def exact(height: int) -> inspection_pb2.ClassifyRequest:
    return classify(
        images=[IMAGE, image_pb2.Image(encoded=b"", resize={"exact": {"height": height, "width": 64}})]
    )


class Bad(NamedTuple):
    request: Any
    field: str
    text: str


BAD = [
    Bad(
        submit(priority=9),
        "priority",
        "9: must be one of PRIORITY_UNSPECIFIED, PRIORITY_LOW, PRIORITY_NORMAL, PRIORITY_HIGH",
    ),
    Bad(
        job_pb2.SubmitJobRequest(
            extract_features={"collection": "c", "layers": ["features.conv1"], "poolings": [1, -7]}
        ),
        "extract_features.poolings[1]",
        "-7: must be one of POOLING_UNSPECIFIED",
    ),
    Bad(classify(images=[]), "images", "'0 items': must be between 1 and 64 items"),
    Bad(classify(images=[IMAGE] * 65), "images", "'65 items': must be between 1 and 64 items"),
    Bad(classify(top_k=0), "top_k", "0: must be between 1 and 1000"),
    Bad(classify(top_k=1001), "top_k", "1001: must be between 1 and 1000"),
    Bad(classify(images=[IMAGE, image_pb2.Image()]), "images[1].source", "one of encoded, tensor"),
    Bad(exact(7), "images[1].resize.exact.height", "7: must be between 8 and 4096"),
    Bad(classify(model={"name": "x" * 65}), "model.name", "at most 64 characters"),
    Bad(classify(model={"version": 0}), "model.version", "0: must be at least 1"),
    Bad(attribute(gradient=None), "attributions[0].technique", "gradient, guided_backprop, deconvnet"),
    Bad(attribute(target={"neuron": {}}), "attributions[0].target.neuron.layer", "must be given"),
    Bad(
        attribute(target={"neuron": {"layer": "features.conv1", "y": -1}}),
        "attributions[0].target.neuron.y",
        "-1: must be at least 0",
    ),
    Bad(
        attribute(target={"neuron": {"layer": "features.conv11"}}),
        "attributions[0].target.neuron.layer",
        "such as features.conv1",
    ),
    Bad(
        attribute(target={"class_score": {"index": 100_000}}),
        "attributions[0].target.class_score.index",
        "100000: must be between 0 and",
    ),
    Bad(
        attribute(target={"log_probability": {"index": -1}}),
        "attributions[0].target.log_probability.index",
        "-1: must be at least 0",
    ),
    Bad(epsilon(1.5), "fgsm.epsilon", "1.5: must be between 0 and 1"),
    Bad(epsilon(NAN), "fgsm.epsilon", "nan: must be a finite number"),
    Bad(epsilon(-INF), "fgsm.epsilon", "-inf: must be a finite number"),
    Bad(attack_pb2.AttackRequest(images=[IMAGE]), "technique", "one of fgsm"),
    Bad(fgsm(untargeted={"labels": [0, 100_000]}), "untargeted.labels[1]", "100000: must be between 0 and"),
    Bad(
        fgsm(untargeted={"labels": [0] * 65}),
        "untargeted.labels",
        "'65 items': must be between 0 and 64 items",
    ),
    Bad(fgsm(targeted={"index": -3}), "targeted.index", "-3: must be at least 0"),
    Bad(dream(image=None), "deepdream.image", "must be given"),
    Bad(dream(octaves=99), "deepdream.octaves", "99: must be between 1 and 12"),
    Bad(dream(step_size=0), "deepdream.step_size", "0.0: must be above 0 and at most 64"),
    Bad(dream(octave_scale=1.04), "deepdream.octave_scale", "must be between 1.05 and 3"),
    Bad(
        dream(layers=["probabilities", "nothing"]),
        "deepdream.layers[1]",
        "'nothing': must be a layer of patterns",
    ),
    Bad(submit(seed=1 << 53), "seed", "must be between 0 and 9007199254740991"),
    Bad(submit(request_id="x" * 37), "request_id", "at most 36 characters"),
    Bad(job_pb2.WatchJobRequest(), "name", "must be given"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.field}:{bad.text[:12]}")
def test_what_is_out_of_bounds_is_named_with_its_value_and_what_is_allowed(
    bad: Bad, manifest: Manifest
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        validate(bad.request, manifest)
    assert raised.value.field == bad.field
    assert raised.value.message.startswith(f"{bad.field} = ")
    assert bad.text in raised.value.message


def test_defaults_are_filled_in_a_copy() -> None:
    request = dream(steps=3)
    checked = validate(request)
    settings = checked.deepdream
    assert (settings.octaves, settings.steps, settings.jitter) == (4, 3, 32)
    assert settings.octave_scale == pytest.approx(1.4)
    assert checked.HasField("seed")
    assert not request.HasField("seed")
    assert validate(classify()).top_k == 5
    assert validate(epsilon(0)).fgsm.epsilon == 0  # What is given stays, although it is the type's zero.


def test_bounds_of_floats_are_themselves_accepted() -> None:
    for scale in (1.05, 3.0):
        assert validate(dream(octave_scale=scale)).deepdream.octave_scale == pytest.approx(scale)


def test_layers_and_classes_wait_for_a_model(manifest: Manifest) -> None:
    last = len(manifest.labels) - 1
    request = attribute(target={"neuron": {"layer": "nowhere"}})
    assert validate(request) == request
    assert validate(attribute(target={"class_score": {"index": last}}), manifest)


def test_paths_begin_where_the_caller_says() -> None:
    with pytest.raises(InvalidArgument, match=r"^model\.version = 0"):
        validate(model_pb2.ModelRef(version=0), path="model")


def test_every_bound_of_every_request_is_one_that_the_check_knows() -> None:
    """A default lies within its own bounds, and whatever has one can be absent."""
    for file in (model_pb2, inspection_pb2, attribution_pb2, attack_pb2, job_pb2, image_pb2):
        for message in file.DESCRIPTOR.message_types_by_name.values():
            for field in message.fields:
                bounds = field.GetOptions().Extensions[bounds_pb2.bounds]
                if bounds.HasField("default"):
                    assert field.has_presence, field.full_name
                    assert bounds.min <= bounds.default <= bounds.max, field.full_name
