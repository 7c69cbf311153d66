"""What no bound of a field can say is refused when a job is submitted, by the name of the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import image_pb2, job_pb2
from convlens_models.repository import ModelRepository
from convlens_server.serving.validation import validate
from convlens_workers.jobs.pictures import decode_images
from convlens_workers.jobs.techniques import NAMES, SPECIFICATIONS
from convlens_workers.jobs.techniques.base import Resources, Submission

MANIFEST = ModelRepository().get().manifest
SIDE = MANIFEST.input_size
LAYER = "features.conv1"
CHANNELS = MANIFEST.layer(LAYER).shape[0]


def picture(height: int = SIDE, width: int = SIDE) -> image_pb2.Image:
    return image_pb2.Image(tensor=wire.to_tensor(np.full((3, height, width), 0.5, np.float32)))


def several(count: int) -> dict[str, Any]:
    return {"images": [picture()] * count}


def dream(**fields: Any) -> dict[str, Any]:
    return {"image": picture(), **fields}


def shown(**target: Any) -> dict[str, Any]:
    return {"objectives": [{"terms": [{"target": target}]}]}


def vector(*numbers: float) -> dict[str, Any]:
    return {"layer": LAYER, "vector": wire.to_tensor(np.array(numbers, np.float32))}


def submitted(technique: str, fields: dict[str, Any]) -> None:
    request = validate(job_pb2.SubmitJobRequest(**{technique: fields}), MANIFEST)
    params = getattr(request, technique)
    sizes = {path: pixels.shape[1:] for path, pixels in decode_images(params, MANIFEST, technique)}
    resources = Resources(victims={"self": "here:1"}, folders={"f": Path("f")})
    SPECIFICATIONS[technique].check(Submission(technique, params, MANIFEST, sizes, resources))


ONES = [1.0] * CHANNELS
LABELS = [0, 1, 2]
DEFENCE = {"defence": {"jpeg": {}}}
TWO_SIZES = {"images": [picture(), picture(SIDE, SIDE + 1)]}

GOOD = [
    ("deepdream", dream(layers=[LAYER], channels=[0, CHANNELS - 1], tile=64)),
    ("deepdream", dream(tile=0, frames=1000)),
    ("feature_visualisation", shown(class_score={"index": 0})),
    ("feature_visualisation", shown(neuron={"layer": LAYER, "channel": 1, "y": 3, "x": 3})),
    ("feature_visualisation", shown(neuron={"layer": "classifier", "channel": 1})),
    ("feature_visualisation", {**shown(neuron={"layer": LAYER, "y": 500}), "size": 1024}),
    ("feature_visualisation", shown(direction=vector(*ONES))),
    ("texture", {"sample": picture(), "layers": [LAYER], "weights": [2]}),
    ("texture", {"sample": picture(), "weights": [1, 2, *[0] * 6]}),
    (
        "style_transfer",
        {"content": picture(), "styles": [{"image": picture(), "weight": 0}, {"image": picture(24, 19)}]},
    ),
    ("lbfgs_attack", {**several(3), "targets": [1]}),
    ("lbfgs_attack", {**several(3), "targets": LABELS}),
    ("carlini_wagner", several(3)),
    ("carlini_wagner", {**several(3), "labels": LABELS}),
    ("expectation_attack", {**several(1), "targets": [1], "norm": 2, "epsilon": 8}),
    ("adversarial_patch", several(5)),
    ("adversarial_patch", {**several(1), "held_out": [picture()]}),
    ("defence_attack", {**several(3), **DEFENCE, "labels": LABELS}),
    ("attack_ensemble", {**several(3), "labels": LABELS, "epsilon": 1}),
    ("printed_photo", {**several(3), "labels": LABELS}),
    ("printed_photo", {**several(3), "labels": LABELS, "epsilons": [0.1, 0.2, 1]}),
    ("substitute", {**several(2), "held_out": [picture()]}),
]


@pytest.mark.parametrize(("technique", "fields"), GOOD)
def test_what_workers_take_is_taken(technique: str, fields: dict[str, Any]) -> None:
    submitted(technique, fields)


BAD = [
    ("deepdream", dream(layers=[LAYER], channels=[0, CHANNELS]), "channels[1]", f"0 and {CHANNELS - 1}"),
    ("deepdream", dream(layers=[LAYER], channels=[-1]), "channels[0]", "between"),
    ("deepdream", dream(layers=[LAYER, "avgpool"], channels=[0]), "layers", "only one"),
    ("deepdream", dream(tile=63), "tile", "at least 64"),
    ("deepdream", {"image": picture(512, 1024), "frames": 257}, "frames", "at most 256 of 512 x 1024"),
    ("feature_visualisation", shown(), "objectives[0].terms[0].target", "given"),
    (
        "feature_visualisation",
        shown(class_score={}),
        "objectives[0].terms[0].target.class_score.index",
        "given",
    ),
    (
        "feature_visualisation",
        shown(channel={"layer": LAYER, "channel": CHANNELS}),
        "objectives[0].terms[0].target.channel.channel",
        f"between 0 and {CHANNELS - 1}",
    ),
    (
        "feature_visualisation",
        {**shown(neuron={"layer": LAYER, "y": SIDE}), "size": SIDE},
        "objectives[0].terms[0].target.neuron.y",
        "at this size",
    ),
    (
        "feature_visualisation",
        shown(neuron={"layer": "classifier", "x": 1}),
        "objectives[0].terms[0].target.neuron.x",
        "between 0 and 0",
    ),
    (
        "feature_visualisation",
        shown(direction=vector(1)),
        "objectives[0].terms[0].target.direction.vector",
        f"[{CHANNELS}]",
    ),
    (
        "feature_visualisation",
        shown(direction=vector(*[0.0] * CHANNELS)),
        "objectives[0].terms[0].target.direction.vector",
        "not all 0",
    ),
    ("texture", {"sample": picture(), "layers": [LAYER], "weights": [1, 1]}, "weights", "1 of at least 0"),
    ("texture", {"sample": picture(), "weights": [-1, 1]}, "weights", "at least 0"),
    ("texture", {"sample": picture(), "weights": [1, 2]}, "weights", "8 of at least 0"),
    (
        "style_transfer",
        {"content": picture(), "styles": [{"image": picture()}], "weights": [1, 2]},
        "weights",
        "4 of at least 0",
    ),
    ("train_style", {"style": picture(), "name": "x", "folder": "f", "weights": [1]}, "weights", "4 of"),
    (
        "style_transfer",
        {"content": picture(), "styles": [{"image": picture(), "weight": 0}]},
        "styles",
        "above 0",
    ),
    ("train_style", {"style": picture(), "name": "x", "folder": "f", "weights": [0]}, "weights", "not all 0"),
    ("lbfgs_attack", {**TWO_SIZES, "targets": [1]}, "images[1]", f"{SIDE} x {SIDE} as images[0]"),
    ("lbfgs_attack", {**several(3), "targets": [1, 2]}, "targets", "3 items, one an image, or one for all"),
    ("carlini_wagner", {**several(3), "labels": [1]}, "labels", "one an image, or none"),
    ("carlini_wagner", {**several(3), "targets": [1, 2]}, "targets", "one for all, or none"),
    ("expectation_attack", {**several(1), "targets": [1], "epsilon": 8}, "epsilon", "0 and 1 for L-infinity"),
    ("expectation_attack", {**several(2), "targets": [1, 1, 1]}, "targets", "2 items"),
    ("adversarial_patch", several(4), "held_out", "5 images"),
    ("adversarial_patch", {**several(1), "held_out": [picture(16, 16)]}, "held_out[0]", "as images[0]"),
    ("defence_attack", {**several(3), **DEFENCE, "labels": [1]}, "labels", "3 items, one an image"),
    ("attack_ensemble", {**several(3), "labels": [1]}, "labels", "3 items"),
    ("attack_ensemble", {**several(1), "labels": [1], "epsilon": 1.5}, "epsilon", "L-infinity"),
    ("transfer_matrix", {**several(3), "labels": [1]}, "labels", "3 items"),
    ("substitute", {**TWO_SIZES, "held_out": [picture()]}, "images[1]", "as images[0]"),
    ("printed_photo", {**several(3), "labels": [1, 2]}, "labels", "3 items"),
    ("printed_photo", {**several(1), "labels": [1], "epsilons": [0.2, 0.1]}, "epsilons[1]", "above 0.2"),
    ("printed_photo", {**several(1), "labels": [1], "epsilons": [0]}, "epsilons[0]", "above 0"),
]


@pytest.mark.parametrize(("technique", "fields", "field", "text"), BAD)
def test_what_workers_refuse_is_refused(
    technique: str, fields: dict[str, Any], field: str, text: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        submitted(technique, fields)
    assert refused.value.field == f"{technique}.{field}"
    assert text in refused.value.message


def test_every_technique_of_the_table_is_one() -> None:
    fields = job_pb2.SubmitJobRequest.DESCRIPTOR.oneofs_by_name["technique"].fields
    assert set(NAMES) == {field.name for field in fields}
    ruled = {technique for technique, specification in SPECIFICATIONS.items() if specification.rules}
    assert {technique for technique, *_ in BAD} <= ruled
