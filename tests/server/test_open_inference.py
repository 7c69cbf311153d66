"""The Open Inference Protocol: by our stubs in every detail, and by Triton's client, unmodified."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support.replies import error_of

from convlens.errors import InvalidArgument, NotFound
from convlens.inference import open_inference_pb2 as pb
from convlens.inference import open_inference_pb2_grpc
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.manifest import Manifest
from convlens_models.repository import ModelRepository
from convlens_server.app import App
from convlens_server.backends.base import Backend
from convlens_server.backends.cache import LruCache
from convlens_server.backends.onnx_backend import OnnxBackend
from convlens_server.backends.providers import Compute

PEERS = Path(f"{sys.prefix}-peers") / "bin" / "python"
LAYER = "features.relu2"


@pytest.fixture
def stub(app: App) -> Iterator[open_inference_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(app.address) as channel:
        yield open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def backend() -> Backend:
    return OnnxBackend(ModelRepository().get(), LruCache(1e9), Compute(lambda: 1))


@pytest.fixture(scope="module")
def batch(manifest: Manifest) -> np.ndarray:
    side = manifest.input_size
    return np.random.default_rng(0).random((2, 3, side, side), np.float32)


@pytest.fixture(scope="module")
def cotangent(manifest: Manifest) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, len(manifest.labels))).astype(np.float32)


def request(model: str = "patterns", *, raw: bool = True, **inputs: np.ndarray) -> pb.ModelInferRequest:
    asked = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        item = asked.inputs.add(name=name, datatype="FP32", shape=array.shape)
        if raw:
            asked.raw_input_contents.append(array.tobytes())
        else:
            item.contents.fp32_contents.extend(array.ravel().tolist())
    return asked


def outputs(reply: pb.ModelInferResponse) -> dict[str, np.ndarray]:
    return {
        item.name: np.frombuffer(data, "<f4").reshape(tuple(item.shape))
        for item, data in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


@pytest.mark.parametrize("raw", [True, False])
def test_a_pass_gives_probabilities_and_logits(
    stub, backend: Backend, batch: np.ndarray, manifest, raw: bool
) -> None:
    asked = request(image=batch, raw=raw)
    asked.id = "seven"
    reply = stub.ModelInfer(asked)
    assert (reply.id, reply.model_name, reply.model_version) == ("seven", "patterns", "1")
    found, wanted = outputs(reply), backend.forward(batch, ["probabilities", manifest.output])
    assert list(found) == list(wanted)
    for name, value in found.items():
        np.testing.assert_array_equal(value, wanted[name])


def test_any_layer_can_be_asked_for(stub, backend: Backend, batch: np.ndarray) -> None:
    asked = request(image=batch)
    asked.outputs.add(name=LAYER)
    np.testing.assert_array_equal(
        outputs(stub.ModelInfer(asked))[LAYER], backend.forward(batch, [LAYER])[LAYER]
    )


@pytest.mark.parametrize("rule", list(ReluRule))
def test_gradients_are_models_of_their_own(
    stub, backend: Backend, batch, cotangent, manifest, rule: ReluRule
) -> None:
    asked = request("patterns.gradient", image=batch, cotangent=cotangent)
    asked.parameters["rule"].string_param = rule
    found = outputs(stub.ModelInfer(asked))
    value, gradient = backend.gradient(batch, manifest.output, cotangent, rule)
    np.testing.assert_array_equal(found["value"], value)
    np.testing.assert_array_equal(found["image_gradient"], gradient)


def test_gradients_of_an_inner_layer_at_another_size(stub, backend: Backend) -> None:
    image = np.random.default_rng(2).random((1, 3, 64, 80), np.float32)
    inner = np.zeros_like(backend.forward(image, [LAYER])[LAYER])
    inner[0, 3, 5, 7] = 1
    asked = request("patterns.gradient", image=image, cotangent=inner)
    asked.parameters["layer"].string_param = LAYER
    found = outputs(stub.ModelInfer(asked))["image_gradient"]
    np.testing.assert_array_equal(found, backend.gradient(image, LAYER, inner, ReluRule.GRADIENT)[1])
    bad = request("patterns.gradient", image=image, cotangent=inner[:, :, 1:])
    bad.parameters["layer"].string_param = LAYER
    assert "cotangent" in error_of(stub.ModelInfer, bad).message


def changed(asked: pb.ModelInferRequest, **changes: Any) -> pb.ModelInferRequest:
    for path, value in changes.items():
        if path == "raw":
            asked.raw_input_contents[0] = value
        elif path == "listed":
            del asked.raw_input_contents[:]
        elif path in ("datatype", "name"):
            setattr(asked.inputs[0], path, value)
        elif path == "shape":
            asked.inputs[0].shape[:] = value
        elif path == "rule":
            asked.parameters["rule"].CopyFrom(value)
        elif path == "layer":
            asked.parameters["layer"].string_param = value
        elif path == "output":
            asked.outputs.add(name=value)
        else:
            setattr(asked, path, value)
    return asked


def value(**fields: Any) -> pb.InferParameter:
    return pb.InferParameter(**fields)


BAD = [
    ({"datatype": "UINT8"}, "inputs[0].datatype = 'UINT8': must be FP32"),
    ({"name": "picture"}, "'image' among them"),
    ({"shape": [2, 3, 96, -96]}, "extents of at least 0"),
    ({"shape": [2, 3, 96]}, "inputs[0]"),
    ({"raw": b""}, "inputs[0] = '0 values'"),
    ({"raw": b"\0" * 7}, "inputs[0] = '1.75 values'"),
    ({"listed": True}, "inputs[0] = '0 values'"),
    ({"shape": [3, 96, 96], "raw": bytes(4 * 3 * 96 * 96)}, "(N, 3, H, W) of 15 to 4096 pixels a side"),
    ({"raw": np.full((2, 3, 96, 96), np.nan, np.float32).tobytes()}, "finite and within [0, 1]"),
    ({"raw": np.full((2, 3, 96, 96), 2, np.float32).tobytes()}, "finite and within [0, 1]"),
    ({"model_version": "one"}, "model_version = 'one'"),
    ({"output": "nothing"}, "outputs[0].name"),
]


@pytest.mark.parametrize(
    ("changes", "text"), BAD, ids=lambda case: next(iter(case)) if isinstance(case, dict) else ""
)
def test_bad_requests_are_told_what_is_wrong(
    stub, batch: np.ndarray, changes: dict[str, Any], text: str
) -> None:
    error = error_of(stub.ModelInfer, changed(request(image=batch), **changes))
    assert isinstance(error, InvalidArgument)
    assert text in error.message


BAD_GRADIENTS = [
    ({"rule": value(string_param="magic")}, "parameters.rule = 'magic': must be one of gradient"),
    ({"rule": value(int64_param=3)}, "a string"),
    ({"layer": "nothing"}, "parameters.layer"),
    ({"output": "probabilities"}, "one of value, image_gradient"),
]


@pytest.mark.parametrize(("changes", "text"), BAD_GRADIENTS, ids=lambda case: str(case)[:20])
def test_bad_gradient_requests_too(stub, batch, cotangent, changes: dict[str, Any], text: str) -> None:
    asked = changed(request("patterns.gradient", image=batch, cotangent=cotangent), **changes)
    assert text in error_of(stub.ModelInfer, asked).message


def test_a_cotangent_must_fit(stub, batch: np.ndarray, cotangent: np.ndarray) -> None:
    for wrong, text in (
        (cotangent[:1], "[2, 53]"),
        (cotangent[:, 1:], "[2, 53]"),
        (cotangent * np.inf, "finite"),
    ):
        asked = request("patterns.gradient", image=batch, cotangent=wrong)
        assert text in error_of(stub.ModelInfer, asked).message
    asked = request("patterns", image=batch, cotangent=cotangent)
    assert "image, and nothing else" in error_of(stub.ModelInfer, asked).message


def test_models_that_are_not_there(stub, batch: np.ndarray) -> None:
    for name in ("nobody", "nobody.gradient"):
        for method, asked in (
            (stub.ModelInfer, request(name, image=batch)),
            (stub.ModelReady, pb.ModelReadyRequest(name=name)),
            (stub.ModelMetadata, pb.ModelMetadataRequest(name=name)),
        ):
            assert isinstance(error_of(method, asked), NotFound)
    assert isinstance(error_of(stub.ModelReady, pb.ModelReadyRequest(name="patterns", version="9")), NotFound)


def test_versions_stand_side_by_side(stub, batch: np.ndarray) -> None:
    assert list(stub.ModelMetadata(pb.ModelMetadataRequest(name="copy")).versions) == ["1", "2"]
    assert stub.ModelInfer(request("copy", image=batch)).model_version == "2"
    older = request("copy", image=batch)
    older.model_version = "1"
    assert stub.ModelInfer(older).model_version == "1"


def test_tritonclient_works_unmodified(
    app: App, backend: Backend, batch, cotangent, manifest, tmp_path: Path
) -> None:
    if not PEERS.exists():
        pytest.skip(f"no {PEERS}: `make test` makes it")
    np.savez(tmp_path / "in.npz", image=batch, cotangent=cotangent)
    script = Path(__file__).parents[1] / "support" / "peers" / "triton_conformance.py"
    ran = subprocess.run(
        [PEERS, script, app.address, tmp_path / "in.npz", tmp_path / "out.npz"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    seen, found = json.loads(ran.stdout), np.load(tmp_path / "out.npz")
    assert (seen["live"], seen["ready"], seen["model_ready"], seen["id"]) == (True, True, True, "seven")
    assert seen["server"]["name"] == "convlens"
    image = {"name": "image", "datatype": "FP32", "shape": ["-1", "3", "-1", "-1"]}
    assert seen["model"]["inputs"] == [image]
    assert [item["name"] for item in seen["model"]["outputs"]] == ["probabilities", manifest.output]
    assert [item["name"] for item in seen["gradient_model"]["inputs"]] == ["image", "cotangent"]
    assert [item["name"] for item in seen["gradient_model"]["outputs"]] == ["value", "image_gradient"]
    wanted = backend.forward(batch, ["probabilities", LAYER])
    for rule, name in ((ReluRule.GRADIENT, "image_gradient"), (ReluRule.GUIDED, "guided")):
        wanted[name] = backend.gradient(batch, manifest.output, cotangent, rule)[1]
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
    assert seen["unknown model"].startswith("StatusCode.NOT_FOUND")
    for name in ("unknown output", "wrong input", "wrong shape"):
        assert seen[name].startswith("StatusCode.INVALID_ARGUMENT"), seen[name]
