"""Jobs that break one rule of their technique each, and no other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from convlens import wire
from convlens.v1 import image_pb2, inspection_pb2, job_pb2
from convlens_models.repository import ModelRepository

MANIFEST = ModelRepository().get().manifest
SIDE = MANIFEST.input_size
LAYER = "features.conv1"
CHANNELS = MANIFEST.layer(LAYER).shape[0]


def picture(height: int = SIDE, width: int = SIDE) -> image_pb2.Image:
    return image_pb2.Image(tensor=wire.to_tensor(np.full((3, height, width), 0.5, np.float32)))


MODELS: dict[str, dict[str, Any]] = {
    "bare": {
        "layers": [layer for layer in MANIFEST.model_dump()["layers"] if layer["kind"] != "Relu"],
        "dream_layers": (),
    },
    "other": {"labels": [f"class {i}" for i in range(len(MANIFEST.labels))]},
    "independent": {"output_kind": "multilabel"},
    "fixed": {"dynamic_size": False, "min_size": SIDE},
}
"""Copies of the embedded model by name: without ReLUs, of other classes, for pictures of one size,
and of classes that are independent."""
VICTIMS = {"self": "here:1"}


class BadJob(NamedTuple):
    """A job, the field that its refusal names, and what it says; a network without ReLUs has no field."""

    technique: str
    fields: dict[str, Any]
    field: str
    text: str
    model: str = ""

    @property
    def request(self) -> job_pb2.SubmitJobRequest:
        model = {"name": self.model}
        return job_pb2.SubmitJobRequest(model=model, **{self.technique: self.fields})


def several(count: int) -> dict[str, Any]:
    return {"images": [picture()] * count}


def dream(**fields: Any) -> dict[str, Any]:
    return {"image": picture(), **fields}


def shown(**target: Any) -> dict[str, Any]:
    return {"objectives": [{"terms": [{"target": target}]}]}


def term(**fields: Any) -> dict[str, Any]:
    return {"objectives": [{"terms": [fields]}]}


def vector(*numbers: float) -> dict[str, Any]:
    return {"layer": LAYER, "vector": wire.to_tensor(np.array(numbers, np.float32))}


def mapped(**attribution: Any) -> dict[str, Any]:
    return {"images": [picture()], "attributions": [attribution]}


RISE = {"attributions": [{"rise": {}}]}
ONES = [1.0] * CHANNELS
LABELS = [0, 1, 2]
DEFENCE = {"defence": {"jpeg": {}}}
TWO_SIZES = {"images": [picture(), picture(SIDE, SIDE + 1)]}
UNIT = {"channel": {"layer": LAYER, "channel": 1}}
CARICATURE = {"image": picture(9, 200), "layer": LAYER}
TRAINING = {"style": picture(), "name": "painter", "folder": "ours"}
FIELD = {"collection": "c", "layer": LAYER, "channel": 1, "discrepancy": {}}
ALONE = {"models": [{"name": "patterns"}]}
COMPARING: dict[str, dict[str, Any]] = {
    "attack_ensemble": {"labels": [1, 2]},
    "transfer_matrix": {"labels": [1, 2], "models": [{"name": "independent"}]},
    "substitute": {"held_out": [picture()]},
    "printed_photo": {"labels": [1, 2]},
}
"""What compares classes, which must exclude each other."""

OTHER = picture(SIDE // 2, SIDE + 40)
STYLED = {"content": OTHER, "styles": [{"image": picture(SIDE + 8, SIDE // 2)}]}
ANY_SIZE = (
    ("texture", {"sample": OTHER, "steps": 1, "scales": 1}),
    ("style_transfer", {**STYLED, "first_steps": 1, "steps": 1}),
    ("deepdream", {"image": OTHER, "layers": ["features.relu3_2"], "octaves": 1, "steps": 1}),
)
"""Jobs that read nothing of a network's head, on pictures that a network of one size would not take."""

BAD = (
    BadJob(
        "deepdream", dream(layers=[LAYER], channels=[0, CHANNELS]), "channels[1]", f"0 and {CHANNELS - 1}"
    ),
    BadJob("deepdream", dream(layers=[LAYER], channels=[-1]), "channels[0]", "between"),
    BadJob("deepdream", dream(layers=[LAYER, "avgpool"], channels=[0]), "layers", "only one"),
    BadJob("deepdream", dream(layers=[LAYER], weights=[1, 1]), "weights", "1 of at least 0"),
    BadJob("deepdream", dream(layers=[LAYER], channels=[0], strongest=1), "strongest", "there are channels"),
    BadJob("deepdream", dream(layers=[LAYER], weakest=CHANNELS + 1), "weakest", f"at most {CHANNELS}"),
    BadJob("deepdream", dream(tile=63), "tile", "at least 64"),
    BadJob("deepdream", dream(video=job_pb2.VIDEO_GIF), "video", "without several frames"),
    BadJob(
        "deepdream",
        dream(video=job_pb2.VIDEO_GIF, frames=2, frame_rate=60),
        "frame_rate",
        "between 0.002 and 50 for gif",
    ),
    BadJob("deepdream", dream(frames=2, frame_rate=1e-5), "frame_rate", "for webp"),
    BadJob("deepdream", {"image": picture(512, 1024), "frames": 257}, "frames", "at most 256 of 512 x 1024"),
    BadJob("feature_visualisation", shown(), "objectives[0].terms[0].target", "given"),
    BadJob(
        "feature_visualisation",
        term(target=UNIT, caricature=CARICATURE),
        "objectives[0].terms[0].caricature",
        "left out, or the target",
    ),
    BadJob(
        "feature_visualisation",
        term(target={"class_score": {"index": 99}}, model={"name": "other"}),
        "objectives[0].terms[0].target.class_score.index",
        "the last class of other",
    ),
    BadJob(
        "feature_visualisation",
        {**shown(class_score={"index": 0}), "size": 64, "width": 80},
        "width",
        "size = 64",
    ),
    BadJob(
        "feature_visualisation",
        {**shown(class_score={"index": 0}), "size": SIDE + 32},
        "size",
        f"{SIDE} x {SIDE}, the one size of its head; targets in layers before it take any",
        "fixed",
    ),
    BadJob(
        "feature_visualisation",
        {**term(target={"class_score": {"index": 0}}, model={"name": "fixed"}), "height": SIDE + 32},
        "objectives[0].terms[0].model",
        "layers before it take any",
    ),
    BadJob(
        "feature_visualisation",
        {**shown(class_score={"index": 0}), "parametrisation": 2, "transforms": {"jitter": 3, "rotate": 9}},
        "transforms.rotate",
        "PIXELS only shifts",
    ),
    BadJob(
        "feature_visualisation",
        {**term(caricature=CARICATURE), "collection": "c"},
        "objectives[0].terms[0].caricature",
        "where a collection is named",
    ),
    BadJob(
        "feature_visualisation",
        {**term(target={"class_score": {"index": 0}}, model={"name": "other"}), "collection": "c"},
        "objectives[0].terms[0].model",
        "where a collection is named",
    ),
    BadJob(
        "feature_visualisation",
        shown(class_score={}),
        "objectives[0].terms[0].target.class_score.index",
        "given",
    ),
    BadJob(
        "feature_visualisation",
        shown(channel={"layer": LAYER, "channel": CHANNELS}),
        "objectives[0].terms[0].target.channel.channel",
        f"between 0 and {CHANNELS - 1}",
    ),
    BadJob(
        "feature_visualisation",
        {**shown(neuron={"layer": LAYER, "y": SIDE}), "size": SIDE},
        "objectives[0].terms[0].target.neuron.y",
        "at this size",
    ),
    BadJob(
        "feature_visualisation",
        {**shown(neuron={"layer": LAYER, "x": SIDE + 1}), "size": 2 * SIDE + 1},
        "objectives[0].terms[0].target.neuron.x",
        f"between 0 and {SIDE}",
    ),
    BadJob(
        "feature_visualisation",
        shown(neuron={"layer": "classifier", "x": 1}),
        "objectives[0].terms[0].target.neuron.x",
        "between 0 and 0",
    ),
    BadJob(
        "feature_visualisation",
        shown(direction=vector(1)),
        "objectives[0].terms[0].target.direction.vector",
        f"[{CHANNELS}]",
    ),
    BadJob(
        "feature_visualisation",
        shown(direction=vector(*[0.0] * CHANNELS)),
        "objectives[0].terms[0].target.direction.vector",
        "not all 0",
    ),
    BadJob(
        "texture", {"sample": picture(), "layers": [LAYER], "weights": [1, 1]}, "weights", "1 of at least 0"
    ),
    BadJob("texture", {"sample": picture(), "weights": [-1, 1]}, "weights", "at least 0"),
    BadJob("texture", {"sample": picture(), "weights": [1, 2]}, "weights", "8 of at least 0"),
    BadJob(
        "style_transfer",
        {"content": picture(), "styles": [{"image": picture()}], "weights": [1, 2]},
        "weights",
        "4 of at least 0",
    ),
    BadJob("train_style", {**TRAINING, "weights": [1]}, "weights", "4 of"),
    BadJob("texture", {"sample": picture(), "layers": [LAYER, "classifier"]}, "layers[1]", "with positions"),
    BadJob(
        "style_transfer",
        {"content": picture(), "styles": [{"image": picture()}], "content_layer": "classifier"},
        "content_layer",
        "with positions",
    ),
    BadJob(
        "style_transfer",
        {"content": picture(64, 2049), "styles": [{"image": picture()}]},
        "content",
        "at most 2048 pixels a side",
    ),
    BadJob(
        "style_transfer",
        {
            "content": picture(64, 1024),
            "styles": [{"image": picture(), "scale": 4}, {"image": picture(), "scale": 5}],
        },
        "styles[1].scale",
        "at most 4: 4096 pixels beside a content of 1024",
    ),
    BadJob("style_transfer", {**STYLED, "noise_start": True, "start": 3}, "start", "beside noise_start"),
    BadJob(
        "style_transfer",
        {**STYLED, "noise_start": True, "initial": OTHER},
        "initial",
        "leave out noise_start",
    ),
    BadJob("style_transfer", {**STYLED, "start": 1, "initial": OTHER}, "initial", "out start = content"),
    BadJob("train_style", {**TRAINING, "content_layer": "classifier"}, "content_layer", "with positions"),
    BadJob(
        "style_transfer",
        {"content": picture(), "styles": [{"image": picture(), "weight": 0}]},
        "styles",
        "above 0",
    ),
    BadJob("train_style", {**TRAINING, "weights": [0]}, "weights", "not all 0"),
    BadJob("lbfgs_attack", {**TWO_SIZES, "targets": [1]}, "images[1]", f"{SIDE} x {SIDE} as images[0]"),
    BadJob(
        "lbfgs_attack", {**several(3), "targets": [1, 2]}, "targets", "3 items, one an image, or one for all"
    ),
    BadJob("carlini_wagner", {**several(3), "labels": [1]}, "labels", "one an image, or none"),
    BadJob("carlini_wagner", {**several(3), "targets": [1, 2]}, "targets", "one for all, or none"),
    BadJob(
        "expectation_attack",
        {**several(1), "targets": [1], "epsilon": 8},
        "epsilon",
        "0 and 1 for L-infinity",
    ),
    BadJob("expectation_attack", {**several(2), "targets": [1, 1, 1]}, "targets", "2 items"),
    BadJob("adversarial_patch", several(4), "held_out", "5 images"),
    BadJob("adversarial_patch", {**several(1), "held_out": [picture(16, 16)]}, "held_out[0]", "as images[0]"),
    BadJob("defence_attack", {**several(3), **DEFENCE, "labels": [1]}, "labels", "3 items, one an image"),
    BadJob("attack_ensemble", {**several(3), "labels": [1]}, "labels", "3 items"),
    *(
        BadJob(technique, {**several(2), **fields}, "", "which must exclude each other", "independent")
        for technique, fields in COMPARING.items()
    ),
    BadJob("attack_ensemble", {**several(1), "labels": [1], "epsilon": 1.5}, "epsilon", "L-infinity"),
    BadJob("transfer_matrix", {**several(3), "labels": [1], **ALONE}, "labels", "3 items"),
    BadJob("attribution_maps", {**TWO_SIZES, **RISE}, "images[1]", "as images[0]"),
    BadJob("attribution_maps", mapped(gradient={}), "attributions[0]", "Attribute answers gradient at once"),
    BadJob(
        "attribution_maps",
        mapped(occlusion={"window": 9, "stride": 10}),
        "attributions[0].occlusion.stride",
        "at most 9",
    ),
    BadJob(
        "attribution_maps",
        mapped(occlusion={"window": SIDE + 1}),
        "attributions[0].occlusion.window",
        f"at most {SIDE}",
    ),
    BadJob(
        "attribution_maps",
        mapped(rise={}, target={"channel": {"layer": LAYER, "channel": CHANNELS}}),
        "attributions[0].target.channel.channel",
        f"0 and {CHANNELS - 1}",
    ),
    BadJob(
        "attribution_maps",
        mapped(rise={}, target={"neuron": {"layer": LAYER, "channel": 0, "y": SIDE, "x": 0}}),
        "attributions[0].target.neuron.y",
        "at this size",
    ),
    BadJob("substitute", {**TWO_SIZES, "held_out": [picture()]}, "images[1]", "as images[0]"),
    BadJob("printed_photo", {**several(3), "labels": [1, 2]}, "labels", "3 items"),
    BadJob(
        "printed_photo", {**several(1), "labels": [1], "epsilons": [0.2, 0.1]}, "epsilons[1]", "above 0.2"
    ),
    BadJob("printed_photo", {**several(1), "labels": [1], "epsilons": [0]}, "epsilons[0]", "above 0"),
    BadJob("deepdream", dream(), "layers", "bare has no dream layers", "bare"),
    BadJob(
        "feature_visualisation",
        {"objectives": [{"terms": [{"target": UNIT}]}] * 32, "collection": "c", "examples": 33},
        "examples",
        "at most 32 for 32 objectives",
    ),
    BadJob(
        "feature_visualisation",
        {"objectives": [{"terms": [{"target": UNIT}, {"target": UNIT}]}], "collection": "c"},
        "objectives[0].terms",
        "one, where a collection is named",
    ),
    BadJob(
        "feature_visualisation",
        {**shown(neuron={"layer": LAYER, "y": SIDE - 1}), "size": 2 * SIDE, "collection": "c"},
        "objectives[0].terms[0].target.neuron.y",
        "at the model's input size",
    ),
    BadJob(
        "feature_visualisation",
        {**shown(neuron={"layer": "features.relu1"}), "collection": "c"},
        "objectives[0].terms[0].target.neuron.layer",
        "at most 32768 values a vector",
    ),
    BadJob("texture", {"sample": picture()}, "", "no ReLU layers", "bare"),
    BadJob(
        "style_transfer",
        {"content": picture(), "styles": [{"image": picture()}], "layers": [LAYER], "weights": [-1]},
        "weights",
        "at least 0",
    ),
    BadJob(
        "style_transfer",
        {"content": picture(), "styles": [{"image": picture()}], "layers": [LAYER]},
        "",
        "no ReLU layers",
        "bare",
    ),
    BadJob("train_style", {**TRAINING, "layers": [LAYER]}, "", "no ReLU layers", "bare"),
    BadJob("train_style", {**TRAINING, "name": "patterns"}, "name", "a network for classification"),
    BadJob("train_style", {**TRAINING, "folder": "theirs"}, "folder", "one of ours"),
    BadJob("train_style", {**TRAINING, "start_from": {"name": "patterns"}}, "start_from", "a style network"),
    BadJob(
        "train_style",
        {**TRAINING, "start_from": {"name": "painted"}, "width": 8},
        "width",
        "4, that of painted/1, or left out",
    ),
    BadJob("lbfgs_attack", {**several(1), "targets": [1, 2]}, "targets", "1 items, one an image"),
    BadJob("carlini_wagner", TWO_SIZES, "images[1]", "as images[0]"),
    BadJob("expectation_attack", {**TWO_SIZES, "targets": [1]}, "images[1]", "as images[0]"),
    BadJob("defence_attack", {**TWO_SIZES, **DEFENCE, "labels": [1, 2]}, "images[1]", "as images[0]"),
    BadJob("attack_ensemble", {**TWO_SIZES, "labels": [1, 2]}, "images[1]", "as images[0]"),
    BadJob("transfer_matrix", {**TWO_SIZES, "labels": [1, 2], **ALONE}, "images[1]", "as images[0]"),
    BadJob(
        "transfer_matrix",
        {**several(1), "labels": [1], "models": [{"name": "other"}]},
        "models[0]",
        "the classes of patterns",
    ),
    BadJob(
        "transfer_matrix",
        {"images": [picture(64, 64)], "labels": [1], "models": [{"name": "fixed"}]},
        "models[0]",
        f"pictures of {SIDE} x {SIDE}, the one size that it accepts",
    ),
    BadJob(
        "substitute",
        {**several(2), "held_out": [picture()], "victim": "mine"},
        "victim",
        "CONVLENS_VICTIMS (self)",
    ),
    BadJob("printed_photo", {**TWO_SIZES, "labels": [1, 2]}, "images[1]", "as images[0]"),
    BadJob(
        "extract_features",
        {"collection": "c", "layers": ["features.relu1"], "poolings": [inspection_pb2.POOLING_FLATTEN]},
        "poolings",
        "at most 32768 values a vector",
    ),
    BadJob("measure_receptive_field", {**FIELD, "layer": "classifier"}, "layer", "spatial axes"),
    BadJob("measure_receptive_field", {**FIELD, "channel": CHANNELS}, "channel", "the last of"),
    BadJob(
        "measure_receptive_field", {**FIELD, "discrepancy": {"patch": 97}}, "discrepancy.patch", "at most 96"
    ),
    BadJob(
        "measure_receptive_field",
        {**FIELD, "discrepancy": {"patch": 3, "stride": 4}},
        "discrepancy.stride",
        "at most the patch, 3",
    ),
)
