"""What a server refuses: each bad request is told its field, value and bounds, and the server stays up."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from PIL import Image as PILImage
from support.replies import error_of

from convlens import wire
from convlens.errors import InvalidArgument, NotFound, ResourceExhausted
from convlens.inference import open_inference_pb2, open_inference_pb2_grpc
from convlens.v1 import (
    attack_pb2,
    attack_pb2_grpc,
    attribution_pb2,
    attribution_pb2_grpc,
    image_pb2,
    inspection_pb2,
    inspection_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    tensor_pb2,
)
from convlens_server.edge.connections import METADATA_BYTES

RNG = np.random.default_rng(0)


def picture(height: int = 96, width: int = 96, **fields: Any) -> image_pb2.Image:
    return image_pb2.Image(
        encoded=wire.encode_image(RNG.integers(0, 256, (height, width, 3), np.uint8)), **fields
    )


def file(data: bytes) -> image_pb2.Image:
    return image_pb2.Image(encoded=data)


def tensor(array: np.ndarray) -> image_pb2.Image:
    return image_pb2.Image(tensor=wire.to_tensor(array))


def floats(value: float) -> image_pb2.Image:
    array = np.full((3, 96, 96), 0.5, np.float32)
    array[1, 2, 3] = value
    return tensor(array)


def png_header(width: int, height: int) -> bytes:
    """A PNG that only claims its size."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""))
    written = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def animated(kind: str) -> bytes:
    frames = [PILImage.fromarray(RNG.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def jpeg() -> bytes:
    return wire.encode_image(RNG.integers(0, 256, (96, 96, 3), np.uint8), "JPEG")


def classify(*images: image_pb2.Image, **fields: Any) -> inspection_pb2.ClassifyRequest:
    return inspection_pb2.ClassifyRequest(images=images, **fields)


def neuron(**fields: Any) -> attribution_pb2.AttributeRequest:
    target = {"neuron": {"layer": "features.conv1", **fields}}
    return attribute(target=target)


def attribute(**fields: Any) -> attribution_pb2.AttributeRequest:
    attribution = attribution_pb2.Attribution(**{"gradient": {}, **fields})
    return attribution_pb2.AttributeRequest(images=[picture()], attributions=[attribution])


def technique(**arm: Any) -> attribution_pb2.AttributeRequest:
    return attribute(gradient=None, **arm)


def direction(vector: np.ndarray, layer: str = "features.conv1") -> attribution_pb2.AttributeRequest:
    return attribute(target={"direction": {"layer": layer, "vector": wire.to_tensor(vector)}})


def attack(**fields: Any) -> attack_pb2.AttackRequest:
    return attack_pb2.AttackRequest(**{"images": [picture()], "fgsm": {}, **fields})


class Bad(NamedTuple):
    name: str
    request: Any
    field: str
    text: str


BAD = [
    Bad("no image", classify(), "images", "between 1 and 64 items"),
    Bad("batch over the limit", classify(*[picture(8, 8)] * 65), "images", "'65 items'"),
    Bad("empty image", classify(file(b"")), "images[0]", "a whole PNG, JPEG, WEBP file"),
    Bad("no source", classify(image_pb2.Image()), "images[0].source", "one of encoded, tensor"),
    Bad("not a picture", classify(file(b"hello")), "images[0]", "a whole PNG, JPEG, WEBP file"),
    Bad("truncated JPEG", classify(file(jpeg()[:-200])), "images[0]", "truncated"),
    Bad(
        "PNG header of 50,000 x 50,000",
        classify(file(png_header(50_000, 50_000))),
        "images[0]",
        "at most 64000000",
    ),
    Bad("animated WebP", classify(file(animated("WEBP"))), "images[0]", "one frame"),
    Bad("GIF", classify(file(animated("GIF"))), "images[0]", "a whole PNG, JPEG, WEBP file"),
    Bad("second image bad", classify(picture(), file(b"hello")), "images[1]", "5 bytes"),
    Bad("NaN", classify(floats(np.nan)), "images[0]", "nan"),
    Bad("infinity", classify(floats(np.inf)), "images[0]", "inf"),
    Bad("above 1", classify(floats(1.5)), "images[0]", "1.5"),
    Bad("below 0", classify(floats(-0.5)), "images[0]", "-0.5"),
    Bad(
        "wrong byte count",
        classify(image_pb2.Image(tensor=tensor_pb2.Tensor(datatype="UINT8", shape=[9, 9, 3], data=b"abc"))),
        "images[0].tensor.data",
        "243 bytes",
    ),
    Bad(
        "unknown datatype",
        classify(image_pb2.Image(tensor=tensor_pb2.Tensor(datatype="BF16", shape=[1], data=b"ab"))),
        "images[0].tensor.datatype",
        "FP32",
    ),
    Bad("channels last float", classify(tensor(np.zeros((96, 96, 3), np.float32))), "images[0]", "(3, H, W)"),
    Bad(
        "mixed sizes",
        classify(tensor(np.zeros((3, 96, 96), "f4")), tensor(np.zeros((3, 64, 80), "f4"))),
        "images[1]",
        "64 x 80 pixels': must be 96 x 96",
    ),
    Bad("too small", classify(picture(8, 8, resize={"keep": {}})), "images[0]", "8"),
    Bad("too large", classify(picture(5000, 10, resize={"keep": {}})), "images[0]", "4096"),
    Bad(
        "too many pixels",
        classify(picture(1000, 1000, resize={"keep": {}})),
        "images",
        "at most 600000 pixels",
    ),
    Bad(
        "too many values",
        inspection_pb2.GetActivationsRequest(
            images=[picture(96, 96)] * 60, layers=["features.conv1", "features.relu1"], top=1
        ),
        "layers",
        "values of 42 MiB': must be at most 32 MiB: fewer",
    ),
    Bad(
        "a strip made large",
        classify(picture(8, 80, resize={"short_side": {"size": 4096, "crop": 96}})),
        "images[0].resize.short_side",
        "4096 x 40960 pixels': must be at most 33554432 pixels when scaled",
    ),
    Bad(
        "resize to nothing",
        classify(picture(resize={"fit": {}})),
        "images[0].resize.fit.max_side",
        "between 8",
    ),
    Bad("top_k", classify(picture(), top_k=0), "top_k", "between 1 and 1000"),
    Bad("no layer", inspection_pb2.GetActivationsRequest(images=[picture()]), "layers", "between 1 and 64"),
    Bad(
        "unknown layer",
        inspection_pb2.GetActivationsRequest(images=[picture()], layers=["features.conv1", "features.convX"]),
        "layers[1]",
        "such as features.conv",
    ),
    Bad(
        "channel of the second layer",
        inspection_pb2.GetActivationsRequest(
            images=[picture()], layers=["features.relu3_2", "features.conv1"], channel=40
        ),
        "channel",
        "as features.conv1 has",
    ),
    Bad(
        "negative channel",
        inspection_pb2.GetActivationsRequest(images=[picture()], layers=["classifier"], channel=-1),
        "channel",
        "at least 0",
    ),
    Bad(
        "no top channels",
        inspection_pb2.GetActivationsRequest(images=[picture()], layers=["classifier"], top=0),
        "top",
        "between 1 and 4096",
    ),
    Bad("no technique", attribute(gradient=None), "attributions[0].technique", "one of gradient"),
    Bad(
        "channel out of range",
        neuron(channel=4000),
        "attributions[0].target.neuron.channel",
        "between 0 and 39",
    ),
    Bad("row out of range", neuron(y=48), "attributions[0].target.neuron.y", "between 0 and 47"),
    Bad("column out of range", neuron(x=999), "attributions[0].target.neuron.x", "between 0 and 47"),
    Bad(
        "row of a layer without rows",
        neuron(layer="classifier", y=1),
        "attributions[0].target.neuron.y",
        "between 0 and 0",
    ),
    Bad(
        "class index",
        attribute(target={"class_score": {"index": 4000}}),
        "attributions[0].target.class_score.index",
        "between 0 and",
    ),
    Bad(
        "channel of a channel target",
        attribute(target={"channel": {"layer": "classifier", "channel": 99}}),
        "attributions[0].target.channel.channel",
        "between 0 and 52",
    ),
    *(
        Bad(f"direction {name}", direction(vector), "attributions[0].target.direction.vector", text)
        for name, vector, text in [
            ("too short", np.ones(39, np.float32), "float32 of shape [40]"),
            ("with a map", np.ones((40, 1), np.float32), "float32 of shape [40]"),
            ("in double", np.ones(40), "float32 of shape [40]"),
            ("with NaN", np.full(40, np.nan, np.float32), "finite numbers"),
            ("of zeros", np.zeros(40, np.float32), "not all 0"),
        ]
    ),
    Bad(
        "direction without a vector",
        attribute(target={"direction": {"layer": "classifier"}}),
        "attributions[0].target.direction.vector",
        "given",
    ),
    *(
        Bad(f"{arm} {name}", technique(**{arm: {name: value}}), f"attributions[0].{arm}.{name}", text)
        for arm, name, value, text in [
            ("integrated_gradients", "steps", 0, "between 1 and 1000"),
            ("integrated_gradients", "baseline", 1.5, "between 0 and 1"),
            ("smoothgrad", "samples", 1001, "between 1 and 1000"),
            ("smoothgrad", "sigma", float("nan"), "a finite number"),
            ("smoothgrad", "seed", -1, "between 0 and"),
            ("grad_cam", "layer", "features.convX", "such as features.conv"),
            ("grad_cam", "layer", "probabilities", "a layer before 'classifier'"),
            ("grad_cam", "layer", "classifier", "a layer before 'classifier'"),
            ("guided_grad_cam", "layer", "nothing", "a layer of patterns"),
            ("occlusion", "window", 97, "at most 96"),
            ("occlusion", "stride", 16, "at most 15, the window"),
            ("rise", "cells", 1, "between 2 and 64"),
            ("rise", "probability", 1.0, "between 0.01 and 0.99"),
        ]
    ),
    Bad(
        "quality steps",
        attribution_pb2.AttributeRequest(
            images=[picture()],
            attributions=[attribution_pb2.Attribution(gradient={})],
            quality={"steps": 1},
        ),
        "quality.steps",
        "between 2 and 1000",
    ),
    Bad("nothing to check", attribution_pb2.CheckRandomisationRequest(), "image", "given"),
    Bad(
        "no technique to check",
        attribution_pb2.CheckRandomisationRequest(image=picture()),
        "attributions",
        "between 1 and 8 items",
    ),
    Bad(
        "unreadable image to check",
        attribution_pb2.CheckRandomisationRequest(
            image=file(jpeg()[:-200]), attributions=[attribution_pb2.Attribution(gradient={})]
        ),
        "image",
        "truncated",
    ),
    Bad("no attack", attack(fgsm=None), "technique", "one of fgsm"),
    Bad("epsilon", attack(fgsm={"epsilon": 1.5}), "fgsm.epsilon", "between 0 and 1"),
    Bad("NaN epsilon", attack(fgsm={"epsilon": float("nan")}), "fgsm.epsilon", "a finite number"),
    Bad("target class", attack(targeted={"index": 4000}), "targeted.index", "between 0 and"),
    Bad(
        "labels and images differ",
        attack(untargeted={"labels": [1, 2]}),
        "untargeted.labels",
        "none or 1 items",
    ),
    Bad("filters of a pool", model_pb2.GetFiltersRequest(layer="features.pool2"), "layer", "with weights"),
    Bad("filters of nothing", model_pb2.GetFiltersRequest(layer="nothing"), "layer", "a layer of patterns"),
    Bad("page size", model_pb2.ListModelsRequest(page_size=0), "page_size", "between 1 and 1000"),
    Bad("page token", model_pb2.ListModelsRequest(page_token="junk"), "page_token", "next_page_token"),
    Bad("version", model_pb2.GetModelRequest(model={"version": 0}), "model.version", "at least 1"),
]


def method_of(channel: grpc.Channel, request: Any) -> Any:
    """The method that takes this request."""
    model = model_pb2_grpc.ModelServiceStub(channel)
    inspection = inspection_pb2_grpc.InspectionServiceStub(channel)
    attribution = attribution_pb2_grpc.AttributionServiceStub(channel)
    methods = {
        model_pb2.ListModelsRequest: model.ListModels,
        model_pb2.GetModelRequest: model.GetModel,
        model_pb2.GetFiltersRequest: model.GetFilters,
        inspection_pb2.ClassifyRequest: inspection.Classify,
        inspection_pb2.GetActivationsRequest: inspection.GetActivations,
        attribution_pb2.AttributeRequest: attribution.Attribute,
        attribution_pb2.CheckRandomisationRequest: attribution.CheckRandomisation,
        attack_pb2.AttackRequest: attack_pb2_grpc.AttackServiceStub(channel).Attack,
    }
    return methods[type(request)]


def is_up(channel: grpc.Channel) -> bool:
    request = classify(picture())
    return len(method_of(channel, request)(request).classifications) == 1


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_bad_request_is_told_what_is_wrong(channel: grpc.Channel, bad: Bad) -> None:
    error = error_of(method_of(channel, bad.request), bad.request)
    assert isinstance(error, InvalidArgument), error
    assert error.reason == "INVALID_ARGUMENT"
    assert error.field.startswith(bad.field), error
    assert error.message.startswith(error.field)
    assert bad.text in error.message
    assert is_up(channel)


@pytest.mark.parametrize(
    "request_",
    [
        model_pb2.GetModelRequest(model={"name": "nothing"}),
        model_pb2.GetModelRequest(model={"name": "../patterns"}),
        model_pb2.GetFiltersRequest(model={"name": "copy", "version": 7}),
        classify(picture(), model={"name": "nothing"}),
        inspection_pb2.GetActivationsRequest(images=[picture()], layers=["x"], model={"name": "nothing"}),
        attribution_pb2.AttributeRequest(model={"name": "copy", "version": 7}),
        attack_pb2.AttackRequest(model={"name": "nothing"}),
    ],
    ids=lambda request: type(request).__name__,
)
def test_unknown_model_is_not_found(channel: grpc.Channel, request_: Any) -> None:
    error = error_of(method_of(channel, request_), request_)
    assert isinstance(error, NotFound)
    assert request_.model.name in error.message


@pytest.mark.parametrize(
    "name", ["../patterns", "/etc/passwd", "file:///etc/passwd", "https://host/model.onnx", "patterns/1", "."]
)
def test_a_model_is_a_name_and_never_a_place(channel: grpc.Channel, name: str) -> None:
    """Names that cannot be are as unknown as those that are not there."""
    inference = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    requests = [
        (model_pb2_grpc.ModelServiceStub(channel).GetModel, model_pb2.GetModelRequest(model={"name": name})),
        (inference.ModelInfer, open_inference_pb2.ModelInferRequest(model_name=name)),
        (inference.ModelInfer, open_inference_pb2.ModelInferRequest(model_name=f"{name}.gradient")),
        (inference.ModelMetadata, open_inference_pb2.ModelMetadataRequest(name=name)),
        (inference.ModelReady, open_inference_pb2.ModelReadyRequest(name=name)),
    ]
    for method, request in requests:
        assert isinstance(error_of(method, request), NotFound)


def test_headers_over_the_limit_are_refused(channel: grpc.Channel) -> None:
    stub = model_pb2_grpc.ModelServiceStub(channel)
    request = model_pb2.ListModelsRequest()
    assert stub.ListModels(request, metadata=[("x-note", "x" * (METADATA_BYTES - 1024))]).models
    with pytest.raises(grpc.RpcError) as raised:
        stub.ListModels(request, metadata=[("x-note", "x" * METADATA_BYTES)])
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert is_up(channel)


def test_message_over_the_limit_is_refused(channel: grpc.Channel) -> None:
    request = classify(file(b"x" * (65 << 20)))
    assert isinstance(error_of(method_of(channel, request), request), ResourceExhausted)
    assert is_up(channel)
