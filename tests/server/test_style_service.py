"""Stylise through a real server: the network in PyTorch as oracle, every size, tiles, wrong models."""

from __future__ import annotations

from itertools import pairwise

import grpc
import numpy as np
import pytest
import torch
from support.replies import error_of, tensors_of
from support.server_thread import serving
from support.style import random_style, random_transformer_net, style_state

from convlens import wire
from convlens.errors import FailedPrecondition, InvalidArgument, NotFound
from convlens.v1 import (
    attack_pb2,
    attribution_pb2,
    attribution_pb2_grpc,
    image_pb2,
    inspection_pb2,
    inspection_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    style_pb2,
    style_pb2_grpc,
)
from convlens.v1.attack_pb2_grpc import AttackServiceStub
from convlens_models.importing.style_import import add_style
from convlens_server.techniques.stylise import _ramp, _spans

MODEL = model_pb2.ModelRef(name="painter")


@pytest.fixture(scope="module")
def style_channel(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    add_style(root, style_state(), "painter")
    add_style(root, random_transformer_net().state_dict(), "foreign")
    with serving(models=root, threads=1) as app, grpc.insecure_channel(app.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(style_channel):
    return style_pb2_grpc.StyleServiceStub(style_channel)


def photo(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([np.sin(x / 17), np.cos(y / 11), np.sin((x + y) / 23)]) / 2 + np.float32(0.5)


def stylise(stub, pixels: np.ndarray, model: model_pb2.ModelRef = MODEL, **fields) -> np.ndarray:
    image = image_pb2.Image(tensor=wire.to_tensor(pixels))
    request = style_pb2.StyliseRequest(model=model, image=image, **fields)
    _, found = tensors_of(stub.Stylise(request))
    assert list(found) == ["image"]
    return found["image"]


@pytest.mark.parametrize("size", [(64, 96), (256, 256)])
def test_the_network_is_the_one_in_pytorch(stub, size) -> None:
    pixels = photo(*size)
    with torch.no_grad():
        expected = random_style()((torch.from_numpy(pixels)[None] - 0.5) / 0.5).numpy()
    found = stylise(stub, pixels)
    assert found.shape == (1, 3, *size)
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("size", [(64, 96), (61, 95)])
def test_networks_of_pytorchs_examples_paint_as_there(stub, size) -> None:
    pixels = photo(*size)
    expected = random_transformer_net().painted(torch.from_numpy(pixels)[None]).numpy()
    assert 0.1 < expected.std() < 0.4
    found = stylise(stub, pixels, model_pb2.ModelRef(name="foreign"))
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("size", [(17, 16), (61, 95), (130, 33)])
def test_any_size_comes_out_as_it_went_in(stub, size) -> None:
    found = stylise(stub, photo(*size))
    assert found.shape == (1, 3, *size)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("size", [(300, 129), (200, 323)])
def test_tiles_leave_no_seams(stub, size) -> None:
    whole = stylise(stub, photo(*size))
    tiled = stylise(stub, photo(*size), tile=128)
    assert tiled.shape == whole.shape
    assert not np.array_equal(tiled, whole)  # It did go through in tiles.
    assert np.abs(tiled - whole).mean() < 0.05
    for axis in (2, 3):  # No step between neighbours is larger than those of the untiled picture.
        assert np.abs(np.diff(tiled, axis=axis)).max() <= 1.25 * np.abs(np.diff(whole, axis=axis)).max()


@pytest.mark.parametrize(("side", "tile"), [(16, 128), (1024, 1024), (1028, 1024), (3000, 130), (412, 128)])
def test_tiles_cover_everything_and_overlap(side, tile) -> None:
    spans = list(_spans(side, tile))
    assert (spans[0][0], spans[-1][1]) == (0, side)
    assert {end - start for start, end in spans} == {min(side, tile - tile % 4)}
    total = np.zeros(side)
    for start, end in spans:
        total[start:end] += _ramp(start, end, side)
    assert total.min() > 0
    for (_, end), (start, _) in pairwise(spans):
        assert end - start >= min(128, tile // 2) - 4


def picture() -> image_pb2.Image:
    return image_pb2.Image(tensor=wire.to_tensor(photo(64, 64)))


@pytest.mark.parametrize(
    ("stub_type", "method", "request_"),
    [
        (
            inspection_pb2_grpc.InspectionServiceStub,
            "Classify",
            inspection_pb2.ClassifyRequest(model=MODEL, images=[picture()]),
        ),
        (
            attribution_pb2_grpc.AttributionServiceStub,
            "Attribute",
            attribution_pb2.AttributeRequest(model=MODEL, images=[picture()]),
        ),
        (AttackServiceStub, "Attack", attack_pb2.AttackRequest(model=MODEL, images=[picture()])),
        (
            style_pb2_grpc.StyleServiceStub,
            "Stylise",
            style_pb2.StyliseRequest(model={"name": "patterns"}, image=picture()),
        ),
        (style_pb2_grpc.StyleServiceStub, "Stylise", style_pb2.StyliseRequest(image=picture())),
    ],
    ids=["classify", "attribute", "attack", "stylise by a classifier", "stylise by the default"],
)
def test_a_network_for_another_task_is_a_failed_precondition(
    style_channel, stub_type, method, request_
) -> None:
    error = error_of(getattr(stub_type(style_channel), method), request_)
    assert isinstance(error, FailedPrecondition)
    assert "this call is for" in error.message


def test_lists_say_what_a_model_is_for(style_channel) -> None:
    models = model_pb2_grpc.ModelServiceStub(style_channel).ListModels(model_pb2.ListModelsRequest()).models
    tasks = {"painter": "style", "foreign": "style", "patterns": "classification"}
    assert {model.name: model.task for model in models} == tasks


BAD = {
    "no image": ({}, "image", "given"),
    "NaN": ({"image": image_pb2.Image(tensor=wire.to_tensor(photo(64, 64) * np.nan))}, "image", "nan"),
    "too small": ({"image": image_pb2.Image(tensor=wire.to_tensor(photo(9, 64)))}, "image", "16"),
    "tile": ({"image": picture(), "tile": 64}, "tile", "between 128 and 4096"),
    "truncated": ({"image": image_pb2.Image(encoded=b"\x89PNG\r\n\x1a\n")}, "image", "a whole PNG"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_told_what_is_wrong(stub, name) -> None:
    fields, field, text = BAD[name]
    error = error_of(stub.Stylise, style_pb2.StyliseRequest(model=MODEL, **fields))
    assert isinstance(error, InvalidArgument)
    assert error.field.startswith(field)
    assert text in error.message
    assert stylise(stub, photo(32, 32)).shape == (1, 3, 32, 32)


def test_unknown_model_is_not_found(stub) -> None:
    request = style_pb2.StyliseRequest(model={"name": "nothing"}, image=picture())
    assert isinstance(error_of(stub.Stylise, request), NotFound)
