"""Jobs that keep every rule of their technique; those that break one are in test_specifications."""

from __future__ import annotations

from typing import Any

import pytest
from support.bad_jobs import (
    CARICATURE,
    CHANNELS,
    DEFENCE,
    LABELS,
    LAYER,
    MANIFEST,
    ONES,
    UNIT,
    dream,
    picture,
    several,
    shown,
    term,
    vector,
)

from convlens.v1 import job_pb2
from convlens_server.request.validation import validate
from convlens_workers.jobs.pictures import decode_images
from convlens_workers.jobs.techniques import SPECIFICATIONS
from convlens_workers.jobs.techniques.base import Resources, Submission


def submitted(technique: str, fields: dict[str, Any]) -> None:
    request = validate(job_pb2.SubmitJobRequest(**{technique: fields}), MANIFEST)
    params = getattr(request, technique)
    sizes = {path: pixels.shape[1:] for path, pixels in decode_images(params, MANIFEST, technique)}
    resources = Resources(victims={"self": "here:1"})
    SPECIFICATIONS[technique].check(Submission(technique, params, MANIFEST, sizes, resources))


GOOD = [
    ("deepdream", dream(layers=[LAYER], channels=[0, CHANNELS - 1], tile=64)),
    ("deepdream", dream(tile=0, frames=1000)),
    ("feature_visualisation", shown(class_score={"index": 0})),
    ("feature_visualisation", shown(neuron={"layer": LAYER, "channel": 1, "y": 3, "x": 3})),
    ("feature_visualisation", shown(neuron={"layer": "classifier", "channel": 1})),
    ("feature_visualisation", {**shown(neuron={"layer": LAYER, "y": 500}), "size": 1024}),
    ("feature_visualisation", shown(direction=vector(*ONES))),
    ("feature_visualisation", {**shown(class_score={"index": 0}), "height": 64, "start": picture(8, 4000)}),
    (
        "feature_visualisation",
        {**term(caricature=CARICATURE), "parametrisation": 2, "transforms": {"jitter": 0}},
    ),
    ("feature_visualisation", term(target=UNIT, model={"name": "patterns", "version": 1})),
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
