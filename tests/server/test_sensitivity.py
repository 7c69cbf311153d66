"""Every sensitivity technique through a real server, against Captum or brute force in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import captum.attr
import grpc
import numpy as np
import pytest
import torch
from support.kinks import assert_same_gradient, relative_l2
from support.replies import tensors_of
from support.server_thread import serving
from torch import nn

from convlens import wire
from convlens.v1 import attribution_pb2, attribution_pb2_grpc, image_pb2, model_pb2
from convlens_models.importing.importer import add_architecture
from convlens_models.network import Network, load_network
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository, StoredModel
from convlens_server.techniques import ATTRIBUTIONS

Oracle = Callable[[Network, torch.Tensor, list[int], dict[str, Any]], Any]
RELATIVE_L2 = 1e-4

pytestmark = pytest.mark.filterwarnings(
    "ignore:Setting (forward, )?backward hooks on ReLU activations:UserWarning",
    "ignore:Input Tensor 0 did not already require gradients:UserWarning",
)


def noisy_mean(network: Network, batch: torch.Tensor, classes: list[int], options: dict[str, Any]) -> Any:
    """The mean gradient over the noise that the seed stands for."""
    shape = (options["samples"], *batch.shape[1:])
    noise = np.random.default_rng(options["seed"]).standard_normal(shape, np.float32)
    maps = []
    for image, index in zip(batch, classes, strict=True):
        deviation = options["sigma"] * (image.max() - image.min())
        noisy = image + deviation * torch.from_numpy(noise).to(image.dtype)
        gradients = captum.attr.Saliency(network).attribute(noisy, index, abs=False)
        maps.append(gradients.mean(dim=0))
    return torch.stack(maps)


def cam(network: Network, batch: torch.Tensor, classes: list[int], options: dict[str, Any]) -> Any:
    """Captum's Grad-CAM, scaled up bilinearly."""
    module = network.module.get_submodule(options["layer"])
    coarse = captum.attr.LayerGradCam(network, module).attribute(batch, classes, relu_attributions=True)
    return captum.attr.LayerAttribution.interpolate(coarse, tuple(batch.shape[2:]), "bilinear")


def guided_cam(network: Network, batch: torch.Tensor, classes: list[int], options: dict[str, Any]) -> Any:
    module = network.module.get_submodule(options["layer"])
    technique = captum.attr.GuidedGradCam(network, module)
    return technique.attribute(batch, classes, interpolate_mode="bilinear")


def occluded(network: Network, batch: torch.Tensor, classes: list[int], options: dict[str, Any]) -> Any:
    window, stride = options["window"], options["stride"]
    maps = captum.attr.Occlusion(network).attribute(
        batch, (3, window, window), (3, stride, stride), options["fill"], classes, perturbations_per_eval=8
    )
    return maps[:, :1]


def masked_mean(network: Network, batch: torch.Tensor, classes: list[int], options: dict[str, Any]) -> Any:
    """RISE, mask after mask, scaled up by PyTorch."""
    height, width = batch.shape[2:]
    cells = options["cells"]
    down, right = -(-height // cells), -(-width // cells)
    mean = network.mean.to(batch.dtype)
    maps = []
    for image, index in zip(batch, classes, strict=True):
        rng = np.random.default_rng(options["seed"])
        total, opened = torch.zeros(height, width), torch.zeros(height, width)
        for _ in range(options["masks"]):
            grid = torch.from_numpy(rng.random((cells, cells)) < options["probability"]).to(batch.dtype)
            y, x = rng.integers(0, (down, right))
            sides = ((cells + 1) * down, (cells + 1) * right)
            large = nn.functional.interpolate(grid[None, None], sides, mode="bilinear")[0, 0]
            mask = large[y : y + height, x : x + width]
            with torch.no_grad():
                score = network(mean + mask * (image - mean))[0, index]
            total, opened = total + score * mask, opened + mask
        maps.append(total / opened)
    return torch.stack(maps)[:, None]


class Row(NamedTuple):
    """A technique, its parameters, and who knows better."""

    technique: str
    options: dict[str, Any]
    oracle: Oracle


TABLE = [
    Row("gradient", {}, lambda n, x, c, _: captum.attr.Saliency(n).attribute(x, c, abs=False)),
    Row("guided_backprop", {}, lambda n, x, c, _: captum.attr.GuidedBackprop(n).attribute(x, c)),
    Row("deconvnet", {}, lambda n, x, c, _: captum.attr.Deconvolution(n).attribute(x, c)),
    Row("gradient_times_input", {}, lambda n, x, c, _: captum.attr.InputXGradient(n).attribute(x, c)),
    Row(
        "integrated_gradients",
        {"steps": 12, "baseline": 0.25},
        lambda n, x, c, o: captum.attr.IntegratedGradients(n).attribute(
            x, o["baseline"], c, n_steps=o["steps"], method="gausslegendre", internal_batch_size=4
        ),
    ),
    Row("smoothgrad", {"samples": 11, "sigma": 0.15, "seed": 3}, noisy_mean),
    Row("grad_cam", {"layer": "SHALLOW"}, cam),
    Row("grad_cam", {"layer": "DEEP"}, cam),
    Row("guided_grad_cam", {"layer": "DEEP"}, guided_cam),
    Row("occlusion", {"window": 33, "stride": 20, "fill": 0.3}, occluded),
    Row("occlusion", {"window": 32, "stride": 32, "fill": 1.0}, occluded),
    Row("rise", {"masks": 16, "cells": 5, "probability": 0.4, "seed": 9}, masked_mean),
]


class Subject(NamedTuple):
    """A network under test, and the layers that stand for SHALLOW and DEEP in the table."""

    stored: StoredModel
    stub: Any
    batch: torch.Tensor
    layers: dict[str, str]

    def ask(self, *attributions: attribution_pb2.Attribution, **fields: Any) -> Any:
        """The result and the tensors."""
        manifest = self.stored.manifest
        images = [image_pb2.Image(tensor=wire.to_tensor(image.numpy())) for image in self.batch]
        model = model_pb2.ModelRef(name=manifest.name)
        request = attribution_pb2.AttributeRequest(
            model=model, images=images, attributions=attributions, **fields
        )
        return tensors_of(self.stub.Attribute(request))


@pytest.fixture(scope="module")
def patterns(channel: grpc.Channel, pixels: np.ndarray) -> Subject:
    stored = ModelRepository().get()
    pictures = [pixels, np.roll(pixels, 40, axis=1)[::-1]]
    batch = [
        to_input(image_pb2.Image(encoded=wire.encode_image(np.ascontiguousarray(p))), stored.manifest)
        for p in pictures
    ]
    return Subject(
        stored,
        attribution_pb2_grpc.AttributionServiceStub(channel),
        torch.from_numpy(np.stack(batch)),
        {"SHALLOW": "features.relu3_2", "DEEP": "features.relu5_2"},
    )


@pytest.fixture(scope="module")
def squeezenet(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    root = tmp_path_factory.mktemp("models")
    weights, labels = data / "models/squeezenet1_0.safetensors", data / "models/imagenet_labels.tsv"
    add_architecture(root, "squeezenet1_0", weights, labels)
    stored = ModelRepository(root).get("squeezenet1_0")
    photos = sorted((data / "photos").iterdir())[140:141]
    batch = [to_input(image_pb2.Image(encoded=photo.read_bytes()), stored.manifest) for photo in photos]
    with serving(models=root) as app, grpc.insecure_channel(app.address) as real:
        stub = attribution_pb2_grpc.AttributionServiceStub(real)
        layers = {"SHALLOW": "features.4.expand3x3_activation", "DEEP": "features.12"}
        yield Subject(stored, stub, torch.from_numpy(np.stack(batch)), layers)


def test_the_table_has_every_technique() -> None:
    assert {row.technique for row in TABLE} == set(ATTRIBUTIONS)


MANY_PASSES = {"integrated_gradients", "smoothgrad", "occlusion", "rise"}
CASES = [
    pytest.param(
        name,
        row,
        id=f"{name}-{row.technique}-{number}",
        marks=[pytest.mark.slow] if name == "squeezenet" and row.technique in MANY_PASSES else [],
    )
    for name in ("patterns", "squeezenet")
    for number, row in enumerate(TABLE)
]


@pytest.mark.parametrize(("name", "row"), CASES)
def test_technique_agrees_with_its_oracle(request: pytest.FixtureRequest, name: str, row: Row) -> None:
    subject: Subject = request.getfixturevalue(name)
    options = {**row.options}
    if "layer" in options:
        options["layer"] = subject.layers[options["layer"]]
    result, tensors = subject.ask(attribution_pb2.Attribution(**{row.technique: options}))
    classes = list(result.targets[0].class_indices)
    network = load_network(subject.stored).double()

    def oracle(images: np.ndarray) -> np.ndarray:
        return row.oracle(network, torch.from_numpy(images), classes, options).detach().numpy()

    images, (found,) = subject.batch.double().numpy(), tensors.values()
    assert found.dtype == np.float32
    if name == "patterns" or row.technique != "deconvnet":  # Few class scores get through SqueezeNet's.
        assert oracle(images).any()
    assert_same_gradient(found, images, oracle, RELATIVE_L2)


VECTOR = np.random.default_rng(5).standard_normal(80).astype(np.float32)
LOGIT_WEIGHTS = np.random.default_rng(6).standard_normal(53).astype(np.float32)
TARGETS: dict[str, tuple[dict[str, Any], str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "class score": ({"class_score": {"index": 7}}, "classifier", lambda v: v[:, 7]),
    "log-probability": ({"log_probability": {"index": 7}}, "log_probabilities", lambda v: v[:, 7]),
    "neuron": (
        {"neuron": {"layer": "features.relu3_2", "channel": 4, "y": 9, "x": 2}},
        "features.relu3_2",
        lambda v: v[:, 4, 9, 2],
    ),
    "channel": (
        {"channel": {"layer": "features.relu3_2", "channel": 4}},
        "features.relu3_2",
        lambda v: v[:, 4].mean(dim=(1, 2)),
    ),
    "channel without a map": (
        {"channel": {"layer": "classifier", "channel": 4}},
        "classifier",
        lambda v: v[:, 4],
    ),
    "direction": (
        {"direction": {"layer": "features.relu3_2", "vector": wire.to_tensor(VECTOR)}},
        "features.relu3_2",
        lambda v: torch.einsum("nchw,c->nhw", v, torch.from_numpy(VECTOR).to(v)).mean(dim=(1, 2)),
    ),
    "direction without a map": (
        {"direction": {"layer": "classifier", "vector": wire.to_tensor(LOGIT_WEIGHTS)}},
        "classifier",
        lambda v: v @ torch.from_numpy(LOGIT_WEIGHTS).to(v),
    ),
}


@pytest.mark.parametrize("target", TARGETS)
def test_targets_agree_with_float64(patterns: Subject, target: str) -> None:
    """The value, a gradient, a path integral and a difference of every target."""
    arm, layer, scalar = TARGETS[target]
    items = [
        {"gradient": {}},
        {"integrated_gradients": {"steps": 5}},
        {"occlusion": {"window": 48, "stride": 48}},
    ]
    result, tensors = patterns.ask(*(attribution_pb2.Attribution(target=arm, **item) for item in items))
    network = load_network(patterns.stored)

    def value(images: torch.Tensor) -> torch.Tensor:
        return scalar(network.to(images.dtype).taps(images, [layer])[layer])

    oracles = (
        lambda x: captum.attr.Saliency(value).attribute(x, abs=False),
        lambda x: captum.attr.IntegratedGradients(value).attribute(x, n_steps=5, method="gausslegendre"),
        lambda x: captum.attr.Occlusion(value).attribute(x, (3, 48, 48), (3, 48, 48), 0.5)[:, :1],
    )
    batch = patterns.batch.double()
    for found, oracle in zip(tensors.values(), oracles, strict=True):

        def expected(images: np.ndarray, oracle: Callable[[torch.Tensor], Any] = oracle) -> np.ndarray:
            return oracle(torch.from_numpy(images)).detach().numpy()

        assert_same_gradient(found, batch.numpy(), expected, RELATIVE_L2)
    for told in result.targets:
        assert told.values == pytest.approx(value(batch).detach().numpy(), abs=1e-5)
        assert bool(told.class_indices) == (target in {"class score", "log-probability"})


def test_integrated_gradients_tell_how_far_they_are_from_complete(patterns: Subject) -> None:
    """With more steps the residual shrinks; it is the one that Captum finds."""
    items = [
        attribution_pb2.Attribution(integrated_gradients={"steps": steps, "baseline": 1.0})
        for steps in (4, 60)
    ]
    result, _ = patterns.ask(*items, attribution_pb2.Attribution(gradient={}))
    coarse, fine = (np.array(found.completeness_residuals) for found in result.targets[:2])
    assert np.abs(fine).max() < np.abs(coarse).max() / 2
    assert not result.targets[2].completeness_residuals
    network = load_network(patterns.stored).double()
    batch, classes = patterns.batch.double(), list(result.targets[0].class_indices)
    _, delta = captum.attr.IntegratedGradients(network).attribute(
        batch, 1.0, classes, n_steps=4, method="gausslegendre", return_convergence_delta=True
    )
    assert coarse == pytest.approx(delta.numpy(), abs=1e-4)


@pytest.mark.parametrize(("technique", "options"), [("smoothgrad", {"samples": 3}), ("rise", {"masks": 5})])
def test_the_seed_decides_the_bytes(patterns: Subject, technique: str, options: dict[str, Any]) -> None:
    def asked(seed: int) -> bytes:
        item = attribution_pb2.Attribution(**{technique: {**options, "seed": seed}})
        (found,) = patterns.ask(item)[1].values()
        return found.tobytes()

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)


def test_an_image_has_the_same_map_alone_and_in_a_batch(patterns: Subject) -> None:
    items = [attribution_pb2.Attribution(**{row.technique: dict(row.options)}) for row in TABLE[4:6]]
    _, together = patterns.ask(*items)
    _, alone = patterns._replace(batch=patterns.batch[1:]).ask(*items)
    for name, found in alone.items():
        assert relative_l2(found[0], together[name][1]) <= RELATIVE_L2


def test_grad_cam_takes_the_last_map_unless_told(patterns: Subject) -> None:
    """Of the class scores the last map of all, of a unit the last one before it."""
    unit = {"direction": {"layer": "features.relu3_2", "vector": wire.to_tensor(np.ones(80, np.float32))}}
    for arm, layer in (({}, "features.relu5_2"), (unit, "features.conv3_2")):
        items = [attribution_pb2.Attribution(target=arm, grad_cam={"layer": name}) for name in ("", layer)]
        default, named = patterns.ask(*items)[1].values()
        assert np.array_equal(default, named)
        assert default.any()
