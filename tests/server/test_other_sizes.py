"""Networks whose head has one size: what reads only layers before it takes any, and computes the right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from support.one_size import CLASSES, MAPS, MEAN, SIDE, STD, add_all, module
from support.replies import error_of, tensors_of
from support.server_thread import serving

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.inference import open_inference_pb2, open_inference_pb2_grpc
from convlens.v1 import (
    attack_pb2,
    attack_pb2_grpc,
    attribution_pb2,
    attribution_pb2_grpc,
    image_pb2,
    inspection_pb2,
    inspection_pb2_grpc,
    job_pb2,
    model_pb2,
    model_pb2_grpc,
    unit_pb2,
    unit_pb2_grpc,
)
from convlens_models.network import Network
from convlens_models.repository import ModelRepository
from convlens_workers.jobs.techniques.base import Resources, Submission
from convlens_workers.jobs.techniques.feature_visualisation import SPECIFICATION

NAMES = ("ours", "scripted", "foreign")
HEIGHT, WIDTH = 37, 62
"""No multiples of a stride, and on both sides of the network's own size."""
INNER, LAST = "features.4", "features.7"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_all(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def channel(root: Path) -> Iterator[grpc.Channel]:
    with serving(models=root, threads=1) as app, grpc.insecure_channel(app.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def network() -> Network:
    exact = Network(module(), MEAN, STD).double()
    exact.mean, exact.std = exact.mean.double(), exact.std.double()
    return exact


def batch(height: int = HEIGHT, width: int = WIDTH, count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, height, width), np.float32)


def pictures(images: np.ndarray) -> list[image_pb2.Image]:
    return [image_pb2.Image(tensor=wire.to_tensor(image)) for image in images]


def near(found: np.ndarray, expected: Any, tolerance: float = 1e-5) -> None:
    exact = expected.numpy() if isinstance(expected, torch.Tensor) else expected
    assert found.shape == exact.shape
    assert np.linalg.norm(found - exact) <= tolerance * np.linalg.norm(exact)


VECTOR = np.linspace(-1, 1, 8).astype(np.float32)
TARGETS = {
    "channel": ({"layer": LAST, "channel": 2}, lambda value: value[:, 2].mean((1, 2))),
    "neuron": ({"layer": INNER, "channel": 3, "y": 8, "x": 15}, lambda value: value[:, 3, 8, 15]),
    "direction": (
        {"layer": INNER, "vector": wire.to_tensor(VECTOR)},
        lambda value: torch.einsum("nchw,c->n", value, torch.from_numpy(VECTOR).double()) / (9 * 16),
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_activations_are_those_of_the_layers_in_float64(channel, network: Network, name: str) -> None:
    request = inspection_pb2.GetActivationsRequest(
        model={"name": name}, images=pictures(batch()), layers=MAPS
    )
    _, found = tensors_of(inspection_pb2_grpc.InspectionServiceStub(channel).GetActivations(request))
    exact = network.taps(torch.from_numpy(batch()).double(), MAPS)
    assert list(found) == list(MAPS)
    for layer in MAPS:
        near(found[layer], exact[layer])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", TARGETS)
def test_gradients_are_autograds_in_float64(channel, network: Network, name: str, kind: str) -> None:
    fields, scalar = TARGETS[kind]
    item = {"target": {kind: fields}, "gradient": {}}
    request = attribution_pb2.AttributeRequest(
        model={"name": name}, images=pictures(batch()), attributions=[item]
    )
    result, found = tensors_of(attribution_pb2_grpc.AttributionServiceStub(channel).Attribute(request))
    images = torch.from_numpy(batch()).double().requires_grad_()
    value = scalar(network.taps(images, [fields["layer"]])[fields["layer"]])
    (gradient,) = torch.autograd.grad(value.sum(), images)
    near(found["0.gradient"], gradient, 1e-4)
    assert result.targets[0].values == pytest.approx(value.tolist(), rel=1e-4, abs=1e-6)


INSIDE = {"target": {"channel": {"layer": LAST, "channel": 2}}}
TECHNIQUES = (
    {"guided_backprop": {}},
    {"deconvnet": {}},
    {"gradient_times_input": {}},
    {"integrated_gradients": {"steps": 4}},
    {"smoothgrad": {"samples": 3, "seed": 1}},
    {"grad_cam": {}},
    {"guided_grad_cam": {"layer": INNER}},
    {"occlusion": {"window": 16, "stride": 11}},
    {"rise": {"masks": 16, "seed": 2}},
)


def unit(request: type[Any], name: str, **fields: Any) -> Any:
    return request(model={"name": name}, images=pictures(batch()), layer=LAST, channel=1, **fields)


def attribute(name: str, **fields: Any) -> Any:
    items = [{**INSIDE, **technique} for technique in TECHNIQUES]
    return attribution_pb2.AttributeRequest(
        model={"name": name}, images=pictures(batch()), attributions=items, **fields
    )


CALLS = {
    "attributions": (
        lambda channel: attribution_pb2_grpc.AttributionServiceStub(channel).Attribute,
        lambda name: attribute(name, quality={"steps": 4}),
    ),
    "patterns": (
        lambda channel: unit_pb2_grpc.UnitServiceStub(channel).GetUnitPatterns,
        lambda name: unit(unit_pb2.GetUnitPatternsRequest, name),
    ),
    "fields": (
        lambda channel: unit_pb2_grpc.UnitServiceStub(channel).GetDiscrepancyMaps,
        lambda name: unit(unit_pb2.GetDiscrepancyMapsRequest, name, discrepancy={"patch": 8, "stride": 8}),
    ),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("call", CALLS)
def test_replies_are_those_of_the_same_trunk_before_a_head_of_any_size(channel, name: str, call: str) -> None:
    method, request = CALLS[call]
    (result, found), (same, exact) = (
        tensors_of(method(channel)(request(which))) for which in (name, "headless")
    )
    assert list(found) == list(exact)
    for key in exact:
        near(found[key], exact[key], 1e-4)
    assert str(result).count("y:") == str(same).count("y:")
    if call != "attributions":
        assert [hit.box for hit in result.hits] == [hit.box for hit in same.hits]


@pytest.mark.parametrize("name", NAMES)
def test_features_and_filters(channel, network: Network, name: str) -> None:
    stub = inspection_pb2_grpc.InspectionServiceStub(channel)
    options = {"model": {"name": name}, "layer": LAST, "normalise": False}
    sizes = {"wide": (HEIGHT, WIDTH), "high": (90, 31)}
    requests = [
        inspection_pb2.StreamFeaturesRequest(options=options),
        *(
            inspection_pb2.StreamFeaturesRequest(image={"name": key, "image": pictures(batch(*size))[0]})
            for key, size in sizes.items()
        ),
    ]
    _, found = tensors_of(stub.StreamFeatures(iter(requests)))
    for key, size in sizes.items():
        exact = network.taps(torch.from_numpy(batch(*size)[:1]).double(), [LAST])[LAST].mean((2, 3))
        near(found[key], exact[0], 1e-4)
    filters = model_pb2.GetFiltersRequest(model={"name": name}, layer="features.3")
    _, kernels = tensors_of(model_pb2_grpc.ModelServiceStub(channel).GetFilters(filters))
    assert np.array_equal(kernels["features.3"], module().features[3].weight.numpy())


def infer(name: str, images: np.ndarray, outputs: tuple[str, ...] = (), **more: Any) -> Any:
    tensors = {"image": images, **more.pop("tensors", {})}
    return open_inference_pb2.ModelInferRequest(
        model_name=name,
        inputs=[{"name": key, "datatype": "FP32", "shape": value.shape} for key, value in tensors.items()],
        raw_input_contents=[value.tobytes() for value in tensors.values()],
        outputs=[{"name": output} for output in outputs],
        **more,
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_open_inference_protocol_takes_them_too(channel, network: Network, name: str) -> None:
    stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    images = torch.from_numpy(batch()).double().requires_grad_()
    exact = network.taps(images, [LAST])[LAST]
    reply = stub.ModelInfer(infer(name, batch(), (LAST,)))
    near(np.frombuffer(reply.raw_output_contents[0], "<f4").reshape(reply.outputs[0].shape), exact.detach())
    cotangent = np.random.default_rng(2).normal(size=exact.shape).astype(np.float32)
    (gradient,) = torch.autograd.grad(exact, images, torch.from_numpy(cotangent).double())
    asked = infer(
        f"{name}.gradient",
        batch(),
        ("image_gradient",),
        tensors={"cotangent": cotangent},
        parameters={"layer": {"string_param": LAST}},
    )
    (raw,) = stub.ModelInfer(asked).raw_output_contents
    near(np.frombuffer(raw, "<f4").reshape(gradient.shape), gradient, 1e-4)
    refused = error_of(stub.ModelInfer, infer(name, batch()))
    assert f"(N, 3, {SIDE}, {SIDE}), the one size that {name} accepts where its head" in refused.message


@pytest.mark.parametrize("name", NAMES)
def test_what_reads_the_head_keeps_its_size_and_says_which(channel, name: str) -> None:
    inspection = inspection_pb2_grpc.InspectionServiceStub(channel)
    attribution = attribution_pb2_grpc.AttributionServiceStub(channel)
    fields = {"model": {"name": name}, "images": pictures(batch())}
    calls = [
        (inspection.Classify, inspection_pb2.ClassifyRequest(**fields)),
        (
            inspection.GetActivations,
            inspection_pb2.GetActivationsRequest(layers=[INNER, "classifier"], **fields),
        ),
        (
            attribution.Attribute,
            attribution_pb2.AttributeRequest(
                attributions=[
                    {**INSIDE, "gradient": {}},
                    {"target": {"class_score": {"index": 1}}, "gradient": {}},
                ],
                **fields,
            ),
        ),
        (
            attack_pb2_grpc.AttackServiceStub(channel).Attack,
            attack_pb2.AttackRequest(untargeted={}, fgsm={}, **fields),
        ),
    ]
    head = "flatten:flatten" if name == "foreign" else "avgpool"
    for method, request in calls:
        error = error_of(method, request)
        assert error.field == "images[0]"
        allowed = f"must be {SIDE} x {SIDE}, the one size that {name} accepts where its head is read"
        assert f"{HEIGHT} x {WIDTH} pixels" in error.message
        assert f"{allowed}, from {head} on" in error.message
    own = inspection_pb2.ClassifyRequest(model={"name": name}, images=pictures(batch(SIDE, SIDE)))
    assert len(inspection.Classify(own).classifications[0].predictions) == CLASSES


@pytest.mark.parametrize("name", NAMES)
def test_each_layer_takes_pictures_from_its_least_side_on(channel, network: Network, name: str) -> None:
    model = (
        model_pb2_grpc.ModelServiceStub(channel)
        .GetModel(model_pb2.GetModelRequest(model={"name": name}))
        .model
    )
    least = {layer.name: layer.least_side for layer in model.layers if layer.least_side}
    assert set(MAPS) <= set(least)
    assert not {"classifier", "probabilities"} & set(least)
    assert ("avgpool" in least) == (name == "foreign")  # Which does nothing in the file.
    stub = inspection_pb2_grpc.InspectionServiceStub(channel)
    side = max(8, max(least.values()) if name == "scripted" else least[LAST])
    small = batch(side, side + 5, 1)
    request = inspection_pb2.GetActivationsRequest(
        model={"name": name}, images=pictures(small), layers=[LAST]
    )
    _, found = tensors_of(stub.GetActivations(request))
    near(found[LAST], network.taps(torch.from_numpy(small).double(), [LAST])[LAST])
    below = inspection_pb2.GetActivationsRequest(
        model={"name": name}, images=pictures(batch(side - 1, 60, 1)), layers=[LAST]
    )
    assert f"between {side} and 4096 a side" in error_of(stub.GetActivations, below).message


def visualisation(root: Path, name: str, side: int, **target: Any) -> Submission:
    objectives = [{"terms": [{"target": target}]}]
    params = job_pb2.FeatureVisualisation(objectives=objectives, size=side)
    repository = ModelRepository(root)
    manifest = SPECIFICATION.seen(params, repository.get(name).manifest)
    return Submission("feature_visualisation", params, manifest, resources=Resources(repository))


@pytest.mark.parametrize("name", ["ours", "foreign"])
@pytest.mark.parametrize("side", [37, 61, 130])
def test_units_of_visualisations_are_the_networks_at_that_size(
    root: Path, network: Network, name: str, side: int
) -> None:
    rows = network.taps(torch.zeros(1, 3, side, side).double(), [LAST])[LAST].shape[2]
    SPECIFICATION.check(visualisation(root, name, side, neuron={"layer": LAST, "y": rows - 1}))
    with pytest.raises(InvalidArgument, match=f"y = {rows}: must be between 0 and {rows - 1}"):
        SPECIFICATION.check(visualisation(root, name, side, neuron={"layer": LAST, "y": rows}))


def test_visualisations_of_what_has_no_value_at_a_size_are_refused(root: Path) -> None:
    for name, why in (("ours", "head; targets in layers before it take any"), ("foreign", "graph")):
        allowed = f"61 x 61 pixels for {name}': must be 48 x 48, the one size of its {why}"
        with pytest.raises(InvalidArgument, match=allowed):
            SPECIFICATION.check(visualisation(root, name, 61, class_score={"index": 1}))
    with pytest.raises(InvalidArgument, match="8 x 8 pixels for ours': must be larger, as features"):
        SPECIFICATION.check(visualisation(root, "ours", 8, channel={"layer": LAST}))
