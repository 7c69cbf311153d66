"""The model-randomisation check: Adebayo et al.'s result, and the pieces it is made of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import scipy.stats
import torch
from onnx import helper
from support.replies import error_of
from support.server_thread import serving

from convlens import wire
from convlens.errors import FailedPrecondition
from convlens.v1 import attribution_pb2, attribution_pb2_grpc, image_pb2, target_pb2
from convlens_models import tensors
from convlens_models.importing.importer import add_architecture
from convlens_models.repository import ModelRepository
from convlens_server.quick.randomisation import _correlation, _fan_in, redraw, spearman, weighted_layers

TECHNIQUES = ("gradient", "guided_backprop")


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> attribution_pb2_grpc.AttributionServiceStub:
    return attribution_pb2_grpc.AttributionServiceStub(channel)


def request(image: image_pb2.Image, *techniques: str, **fields: Any) -> Any:
    attributions = [attribution_pb2.Attribution(**{name: {}}) for name in techniques]
    return attribution_pb2.CheckRandomisationRequest(image=image, attributions=attributions, **fields)


def absolute(replies: Any, position: int) -> list[float]:
    return [reply.correlations[position].absolute for reply in replies]


def test_gradient_maps_need_what_was_learned_and_guided_backprop_does_not(stub: Any, image: Any) -> None:
    """While the upper half of the layers becomes random."""
    replies = list(stub.CheckRandomisation(request(image, *TECHNIQUES, "grad_cam")))
    half = replies[: len(replies) // 2]
    gradient, guided, cam = ([reply.correlations[i].signed for reply in half] for i in range(3))
    assert max(map(abs, gradient)) < 0.5
    assert min(guided) > 0.8
    assert min(absolute(half, 1)) > max(absolute(half, 0))
    assert not max(cam) > 0.8  # Most are zero throughout, which correlates with nothing.
    # With no trained layer left little is left of any map.
    assert not max(abs(correlation.signed) for correlation in replies[-1].correlations[:2]) > 0.5


@pytest.mark.slow
def test_the_same_holds_for_squeezenet(data: Path, tmp_path: Path) -> None:
    """Of a class before its last ReLU, which random layers often keep shut."""
    weights, labels = data / "models/squeezenet1_0.safetensors", data / "models/imagenet_labels.tsv"
    add_architecture(tmp_path, "squeezenet1_0", weights, labels)
    photo = sorted((data / "photos").iterdir())[140]
    image = image_pb2.Image(encoded=photo.read_bytes())
    with serving(models=tmp_path) as app, grpc.insecure_channel(app.address) as real:
        stub = attribution_pb2_grpc.AttributionServiceStub(real)
        asked = request(image, *TECHNIQUES, model={"name": "squeezenet1_0"}, layers=10)
        for attribution in asked.attributions:
            attribution.target.channel.MergeFrom(target_pb2.ChannelTarget(layer="classifier.1", channel=350))
        replies = list(stub.CheckRandomisation(asked))
    assert len(replies) == 10
    gradient, guided = ([reply.correlations[i].signed for reply in replies] for i in range(2))
    assert max(map(abs, gradient)) < 0.4
    assert min(guided) > 0.9


def test_the_cascade_goes_from_the_top_as_far_as_asked(stub: Any, image: Any) -> None:
    replies = list(stub.CheckRandomisation(request(image, "gradient", layers=3, seed=4)))
    assert [reply.layer for reply in replies] == ["classifier", "features.conv5_2", "features.conv5_1"]
    again = list(stub.CheckRandomisation(request(image, "gradient", layers=2, seed=4)))
    assert again == replies[:2]
    other = list(stub.CheckRandomisation(request(image, "gradient", layers=2, seed=5)))
    assert other != replies[:2]


def test_the_stored_model_stays_as_it_is(stub: Any, image: Any) -> None:
    asked = attribution_pb2.AttributeRequest(
        images=[image], attributions=[attribution_pb2.Attribution(gradient={})]
    )
    before = [reply.SerializeToString() for reply in stub.Attribute(asked)]
    list(stub.CheckRandomisation(request(image, "gradient", layers=2)))
    assert [reply.SerializeToString() for reply in stub.Attribute(asked)] == before


def test_torchscript_is_refused(tmp_path: Path, image: Any) -> None:
    stored = ModelRepository().get()
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(stored.manifest.labels))
    root = tmp_path / "models"
    add_architecture(root, "patterns", stored.file("weights.safetensors"), labels, "script", torchscript=True)
    with serving(models=root) as app, grpc.insecure_channel(app.address) as channel:
        stub = attribution_pb2_grpc.AttributionServiceStub(channel)
        asked = request(image, "gradient", model={"name": "script"})
        error = error_of(stub.CheckRandomisation, asked)
    assert isinstance(error, FailedPrecondition)
    assert "TorchScript" in error.message


@pytest.mark.parametrize("weights", ["INITIALISER", "ZERO_MEAN", "OWN_MEAN", "UNSPECIFIED"])
def test_a_layer_is_redrawn_as_asked(tmp_path: Path, weights: str) -> None:
    stored = ModelRepository().get()
    file = shutil.copyfile(stored.file("weights.safetensors"), tmp_path / "weights.safetensors")
    before = {name: np.array(value) for name, value in tensors.load(file).items()}
    layer, keys, fan_in = found = weighted_layers(stored)[1]
    assert (layer, keys) == ("features.conv5_2", ["features.conv5_2.weight", "features.conv5_2.bias"])
    assert fan_in == before[keys[0]][0].size
    distribution = attribution_pb2.RandomWeights.Value(f"RANDOM_WEIGHTS_{weights}")
    redraw(file, found, np.random.default_rng(0), distribution)
    for name, value in tensors.load(file).items():
        assert np.array_equal(value, before[name]) == (name not in keys)
    drawn, learned = tensors.load(file)[keys[0]], before[keys[0]]
    mean = learned.mean() if weights == "OWN_MEAN" else 0
    deviation = learned.std() if "MEAN" in weights else reset(learned.shape).std()
    assert drawn.mean() == pytest.approx(mean, abs=float(0.02 * learned.std()))
    assert drawn.std() == pytest.approx(deviation, rel=0.02)
    if "MEAN" not in weights:
        for key, wanted in zip(keys, reset(learned.shape, bias=True), strict=True):
            assert np.abs(tensors.load(file)[key]).max() == pytest.approx(np.abs(wanted).max(), rel=0.05)
    assert abs(np.corrcoef(drawn.ravel(), learned.ravel())[0, 1]) < 0.02


def reset(shape: tuple[int, ...], bias: bool = False) -> Any:
    """What PyTorch gives a new convolution with kernels of that shape; with its bias, if wanted."""
    layer = torch.nn.Conv2d(shape[1], shape[0], shape[2:])
    return (
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        if bias
        else layer.weight.numpy(force=True)
    )


def test_fan_in_is_pytorchs_for_every_kind_of_layer() -> None:
    """By the bound of a new layer's bias, 1 / sqrt(fan-in)."""
    cases = {
        ("Conv", ()): torch.nn.Conv2d(12, 30, (3, 5), groups=3),
        ("ConvTranspose", ()): torch.nn.ConvTranspose2d(12, 30, 3, groups=3),
        ("Gemm", (("transB", 1),)): torch.nn.Linear(50, 20),
    }
    for (kind, attributes), layer in cases.items():
        node = helper.make_node(kind, ["x", "w"], ["y"], **dict(attributes))
        fan_in, _ = torch.nn.init._calculate_fan_in_and_fan_out(layer.weight)
        assert _fan_in(node, layer.weight.shape) == fan_in
    for kind in ("Gemm", "MatMul"):
        assert _fan_in(helper.make_node(kind, ["x", "w"], ["y"]), (50, 20)) == 50


def test_blank_maps_say_so(stub: Any, image: Any) -> None:
    """Where there is no correlation, one of the two maps is."""
    for weights in ("ZERO_MEAN", "OWN_MEAN", "INITIALISER"):
        asked = request(image, "gradient", "grad_cam", weights=f"RANDOM_WEIGHTS_{weights}")
        for reply in stub.CheckRandomisation(asked):
            for found in reply.correlations:
                assert np.isnan(found.signed) == (found.blank or found.trained_blank)
                assert not found.trained_blank
    lively, constant = (
        np.arange(8, dtype=np.float32).reshape(1, 1, 2, 4),
        np.full((1, 1, 2, 4), 3, np.float32),
    )
    found = {
        name: _correlation(*pair) for name, pair in {"b": (lively, constant), "t": (constant, lively)}.items()
    }
    assert [(found[name].blank, found[name].trained_blank) for name in "bt"] == [(True, False), (False, True)]


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_spearmans(ties: bool) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2, 3, 8, 8))
    b = a + rng.standard_normal(a.shape)
    if ties:
        a, b = np.maximum(a, 0), np.round(b)
    expected = scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic
    assert spearman(a, b) == pytest.approx(expected, abs=1e-12)
    assert spearman(a, np.exp(a)) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert np.isnan(spearman(a, np.zeros_like(a)))


def test_an_image_over_the_limit_is_named(stub: Any) -> None:
    large = np.zeros((800, 800, 3), np.uint8)
    asked = request(image_pb2.Image(encoded=wire.encode_image(large), resize={"keep": {}}), "gradient")
    error = error_of(stub.CheckRandomisation, asked)
    assert error.field == "image"
    assert "600000 pixels" in error.message
