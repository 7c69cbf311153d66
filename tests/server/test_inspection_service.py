"""Classify, GetActivations, Attribute through a real server, against the network in PyTorch, in float64."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import torch
from support.replies import tensors_of

from convlens import wire
from convlens.v1 import attribution_pb2, attribution_pb2_grpc, image_pb2, inspection_pb2, inspection_pb2_grpc
from convlens_models.manifest import Manifest
from convlens_models.network import load_network
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository

LAYER = "features.relu3_2"


@pytest.fixture
def stub(channel: grpc.Channel):
    return inspection_pb2_grpc.InspectionServiceStub(channel)


@pytest.fixture
def attribution(channel: grpc.Channel):
    return attribution_pb2_grpc.AttributionServiceStub(channel)


@pytest.fixture(scope="module")
def reference():
    """All layers' values for a batch."""
    stored = ModelRepository().get()
    network = load_network(stored).double()
    names = [layer.name for layer in stored.manifest.layers]

    def values(batch):
        found = network.taps(torch.from_numpy(batch).double(), names)
        return {name: value.numpy() for name, value in found.items()}

    return values


@pytest.fixture(scope="module")
def batch(pixels, manifest: Manifest):
    """Three different inputs of the network, as it gets them."""
    pictures = [pixels, pixels[::-1], np.roll(pixels, 40, axis=1)]
    return np.stack([to_input(image_pb2.Image(encoded=wire.encode_image(p)), manifest) for p in pictures])


def tensors(batch: np.ndarray) -> list[image_pb2.Image]:
    return [image_pb2.Image(tensor=wire.to_tensor(image)) for image in batch]


def attribute(stub, images, *attributions):
    request = attribution_pb2.AttributeRequest(images=images, attributions=attributions)
    return tensors_of(stub.Attribute(request))


def test_classify_gives_the_best_classes_first(stub, batch, reference, manifest: Manifest):
    reply = stub.Classify(inspection_pb2.ClassifyRequest(images=tensors(batch), top_k=3))
    probabilities = reference(batch)["probabilities"]
    assert len(reply.classifications) == 3
    for found, expected in zip(reply.classifications, probabilities, strict=True):
        best = np.argsort(-expected)[:3]
        assert [prediction.index for prediction in found.predictions] == list(best)
        assert [p.probability for p in found.predictions] == pytest.approx(expected[best], abs=1e-6)
        assert [p.label for p in found.predictions] == [manifest.labels[index] for index in best]


def test_classify_with_more_than_there_are_gives_all_classes(stub, image, manifest: Manifest):
    reply = stub.Classify(inspection_pb2.ClassifyRequest(images=[image], top_k=1000))
    predictions = reply.classifications[0].predictions
    assert len(predictions) == len(manifest.labels)
    assert sum(prediction.probability for prediction in predictions) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_a_file_and_its_pixels_are_classified_alike(stub, pixels, batch, format_):
    file = wire.encode_image(pixels, format_, quality=100)
    if format_ == "WEBP":  # WebP loses something even at its best.
        batch = np.stack([to_input(image_pb2.Image(encoded=file), ModelRepository().get().manifest)])
    replies = [
        stub.Classify(inspection_pb2.ClassifyRequest(images=[image]))
        for image in (image_pb2.Image(encoded=file), tensors(batch)[0])
    ]
    assert replies[0] == replies[1]


def test_activations_are_the_values_inside(stub, batch, reference):
    layers = [LAYER, "classifier", "features.conv1", LAYER]
    request = inspection_pb2.GetActivationsRequest(images=tensors(batch), layers=layers)
    result, found = tensors_of(stub.GetActivations(request))
    assert result is None
    assert list(found) == layers[:3]
    for name, value in found.items():
        assert np.allclose(value, reference(batch)[name], atol=1e-4), name


def test_one_channel_of_each_layer(stub, batch, reference):
    layers = [LAYER, "classifier"]
    request = inspection_pb2.GetActivationsRequest(images=tensors(batch), layers=layers, channel=0)
    _, found = tensors_of(stub.GetActivations(request))
    for name in layers:
        assert np.allclose(found[name], reference(batch)[name][:, :1], atol=1e-4)


@pytest.mark.parametrize("top", [1, 3, 4096])
def test_the_strongest_channels_of_each_image_come_first(stub, batch, reference, top):
    layers = [LAYER, "classifier"]
    request = inspection_pb2.GetActivationsRequest(images=tensors(batch), layers=layers, top=top)
    _, found = tensors_of(stub.GetActivations(request))
    assert list(found) == [LAYER, f"{LAYER}.channels", "classifier", "classifier.channels"]
    for name in layers:
        values, channels = found[name], found[f"{name}.channels"]
        expected = reference(batch)[name]
        assert channels.dtype == np.int32
        assert channels.shape == values.shape[:2] == (len(batch), min(top, expected.shape[1]))
        for image in range(len(batch)):
            means = expected[image].reshape(expected.shape[1], -1).mean(axis=1)
            assert means[channels[image]] == pytest.approx(np.sort(means)[::-1][:top], abs=1e-4)
            assert np.allclose(values[image], expected[image][channels[image]], atol=1e-4)


@pytest.mark.parametrize("size", [(64, 80), (96, 96), (200, 150)])
def test_other_sizes_are_computed_at_their_size(stub, attribution, reference, size):
    batch = np.random.default_rng(0).random((2, 3, *size), np.float32)
    request = inspection_pb2.GetActivationsRequest(images=tensors(batch), layers=[LAYER])
    _, found = tensors_of(stub.GetActivations(request))
    assert np.allclose(found[LAYER], reference(batch)[LAYER], atol=1e-4)
    target = {"neuron": {"layer": LAYER, "channel": 5, "y": found[LAYER].shape[2] - 1, "x": 1}}
    result, maps = attribute(
        attribution, tensors(batch), attribution_pb2.Attribution(gradient={}, target=target)
    )
    assert maps["0.gradient"].shape == batch.shape
    assert result.targets[0].values == pytest.approx(found[LAYER][:, 5, -1, 1], abs=1e-4)


def test_one_request_gives_the_same_as_several(attribution, batch):
    """Shared passes change nothing."""
    targets = [
        {},
        {"class_score": {"index": 3}},
        {"log_probability": {}},
        {"log_probability": {"index": 3}},
        {"neuron": {"layer": LAYER, "channel": 7, "y": 2, "x": 4}},
    ]
    items = [
        attribution_pb2.Attribution(target=target, **{technique: {}})
        for target in targets
        for technique in ("gradient", "guided_backprop", "deconvnet")
    ]
    result, maps = attribute(attribution, tensors(batch), *items)
    assert list(maps) == [f"{position}.{item.WhichOneof('technique')}" for position, item in enumerate(items)]
    for position, (item, value) in enumerate(zip(items, maps.values(), strict=True)):
        alone, single = attribute(attribution, tensors(batch), item)
        assert np.array_equal(value, *single.values())
        assert result.targets[position].class_indices == alone.targets[0].class_indices
        assert result.targets[position].values == pytest.approx(list(alone.targets[0].values), abs=1e-5)


def test_values_are_those_of_the_targets(attribution, batch, reference, manifest: Manifest):
    values = reference(batch)
    predicted = values[manifest.output].argmax(axis=1)
    targets = [
        {},
        {"log_probability": {"index": 3}},
        {"neuron": {"layer": LAYER, "channel": 7, "y": 2, "x": 4}},
    ]
    result, _ = attribute(
        attribution,
        tensors(batch),
        *(attribution_pb2.Attribution(gradient={}, target=target) for target in targets),
    )
    score, log_probability, neuron = result.targets
    assert list(score.class_indices) == list(predicted)
    assert score.values == pytest.approx(values[manifest.output].max(axis=1), abs=1e-4)
    assert list(log_probability.class_indices) == [3, 3, 3]
    assert log_probability.values == pytest.approx(values["log_probabilities"][:, 3], abs=1e-4)
    assert list(neuron.class_indices) == []
    assert neuron.values == pytest.approx(values[LAYER][:, 7, 2, 4], abs=1e-4)


def test_gradient_predicts_small_changes(attribution, batch, reference):
    """f(x + h) - f(x) = <gradient, h> for a small h, which no rule but the gradient's own obeys."""
    target = attribution_pb2.Attribution(gradient={}, target={"class_score": {"index": 3}})
    result, maps = attribute(attribution, tensors(batch[:1]), target)
    gradient = maps["0.gradient"].astype(np.float64)
    step = np.clip(batch[:1] + 1e-3 * gradient / np.abs(gradient).max(), 0, 1).astype(np.float32)
    change = reference(step)["classifier"][0, 3] - result.targets[0].values[0]
    assert change == pytest.approx((gradient * (step - batch[:1].astype(np.float64))).sum(), rel=0.05)


def test_a_neuron_sees_its_receptive_field_and_nothing_else(attribution, batch, manifest: Manifest):
    layer = manifest.layer("features.relu2")
    target = {"neuron": {"layer": layer.name, "channel": 1, "y": 9, "x": 14}}
    _, maps = attribute(attribution, tensors(batch), attribution_pb2.Attribution(gradient={}, target=target))
    touched = np.argwhere(np.abs(maps["0.gradient"]).sum(axis=(0, 1)))
    reach = (layer.receptive_field - 1) / 2
    for axis, position in enumerate((9, 14)):
        centre = layer.receptive_field_start + layer.stride * position
        assert touched[:, axis].min() >= centre - reach
        assert touched[:, axis].max() <= centre + reach
