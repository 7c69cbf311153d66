"""Softmax and LogSoftmax where one class has nearly all of the probability: values, gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.networks import random_module, save_weights
from support.pair import Pair, session
from torch import Tensor

from convlens_models.graphs.autodiff import differentiate
from convlens_models.graphs.log_softmax import refined
from convlens_models.importing import torchscript
from convlens_models.importing.importer import add_architecture
from convlens_models.log_softmax import log_softmax, softmax
from convlens_models.manifest import LOG_PROBABILITIES, PROBABILITIES
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository

GAPS = (0.0, 1.0, 12.0, 20.0, 40.0, 80.0)
"""By how much the largest score leads: 1 - P is about exp(-gap)."""
CLASSES, BATCH, TOP = 6, 3, (2, 0, 5)
COTANGENTS = {
    "the likeliest class": np.eye(CLASSES)[list(TOP)],
    "another class": np.eye(CLASSES)[[1, 1, 1]],
    "cross entropy": -np.eye(CLASSES)[list(TOP)],
    "a margin": np.eye(CLASSES)[list(TOP)] - np.eye(CLASSES)[[1, 1, 1]],
    "several classes": np.eye(CLASSES)[list(TOP)] + np.array([0.5, 0.25, 0, -2, 1, 0]),
    "all alike": np.full((BATCH, CLASSES), 0.7),
}


def scores(gap: float) -> np.ndarray:
    values = np.random.default_rng(3).normal(0, 1, (BATCH, CLASSES))
    for row, top in enumerate(TOP):
        others = np.delete(values[row], top)
        values[row, top] = others.max() + gap
    return values.astype(np.float32)


def exact(z: Tensor) -> Tensor:
    """Log-probabilities in float64, each as -softplus of what the other scores together have over its own."""
    columns = []
    for index in range(z.shape[1]):
        others = torch.cat([z[:, :index], z[:, index + 1 :]], 1).logsumexp(1) - z[:, index]
        columns.append(-torch.where(others < 0, others.exp().log1p(), others + (-others).exp().log1p()))
    return torch.stack(columns, 1)


def expected(kind: str, z: np.ndarray, cotangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, and the gradient by the formula in which nothing cancels: sum_j p_j (g_i w_i - g_j w_j)."""
    p = exact(torch.from_numpy(z).double()).exp().numpy()
    value = exact(torch.from_numpy(z).double()).numpy()
    if kind == "Softmax":
        difference = cotangent[:, :, None] - cotangent[:, None, :]
        return p, (p[:, :, None] * p[:, None, :] * difference).sum(2)
    rest = np.array([[np.delete(row, i).sum() for i in range(CLASSES)] for row in p])
    others = np.array([[np.delete(row, i).sum() for i in range(CLASSES)] for row in cotangent])
    return value, cotangent * rest - p * others


def close(found: np.ndarray, wanted: np.ndarray, cotangent: np.ndarray) -> bool:
    """Relative to the largest of each row; float32 has nothing much below 1e-30."""
    size = np.maximum(np.abs(wanted).max(1, keepdims=True), 1e-30 * np.abs(cotangent).max())
    return bool((np.abs(found - wanted) <= 2e-5 * size).all())


@pytest.mark.parametrize("what", [name for name in COTANGENTS if name != "all alike"])
@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("kind", ["LogSoftmax", "Softmax"])
def test_gradients_are_right_however_certain(kind: str, gap: float, what: str) -> None:
    z, cotangent = scores(gap), COTANGENTS[what]
    value, gradient = expected(kind, z, cotangent)
    for sizes, (found_value, found) in by_graph(kind, z, cotangent).items():
        assert close(found, gradient, cotangent), (sizes, found, gradient)
        np.testing.assert_allclose(found_value, value, rtol=1e-5, atol=1e-37, err_msg=sizes)
    found_value, found = by_torch(kind, z, cotangent)
    assert close(found, gradient, cotangent), (found, gradient)
    np.testing.assert_allclose(found_value, value, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("kind", ["LogSoftmax", "Softmax"])
def test_a_probability_alone_that_is_raised_for_all_classes_alike_has_no_gradient(kind: str) -> None:
    cotangent = (
        COTANGENTS["all alike"] if kind == "Softmax" else exact(torch.tensor(scores(9.0))).exp().numpy()
    )
    _, gradient = expected(kind, scores(9.0), cotangent)
    _, found = by_torch(kind, scores(9.0), cotangent)
    assert np.abs(found - gradient).max() < 1e-7


def by_graph(kind: str, z: np.ndarray, cotangent: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    pair = Pair(z.reshape(BATCH, 1, 1, CLASSES))
    flat = pair.op("Flatten", "image", ref=lambda x: x.flatten(1), axis=1)
    layer = pair.op(kind, flat, ref=lambda x: x, axis=1)
    found = {}
    for name, shape in {"open": None, "batch": (None, 1, CLASSES), "fixed": (BATCH, 1, CLASSES)}.items():
        graph = refined(differentiate(pair.model(), layer, shape=shape))
        onnx.checker.check_model(graph, full_check=True)
        feeds = {"image": pair.image, "cotangent": cotangent.astype(np.float32)}
        value, gradient = session(graph).run([layer, "image_gradient"], feeds)
        found[name] = value, gradient.reshape(BATCH, CLASSES)
    return found


def by_torch(kind: str, z: np.ndarray, cotangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    leaf = torch.from_numpy(z).requires_grad_()
    value = {"LogSoftmax": log_softmax, "Softmax": softmax}[kind](leaf)
    (gradient,) = torch.autograd.grad(value, leaf, torch.from_numpy(cotangent).float())
    return value.detach().numpy(), gradient.numpy()


@pytest.mark.parametrize("axis", [1, -1, 2])
def test_values_are_right_along_any_axis_and_other_graphs_stay_as_they_are(axis: int) -> None:
    pair = Pair(np.random.default_rng(0).normal(0, 15, (2, 4, 6, 7)))
    layer = pair.op("LogSoftmax", "image", ref=lambda x: x.log_softmax(axis), axis=axis)
    (found,) = session(refined(pair.model())).run([layer], {"image": pair.image})
    np.testing.assert_allclose(found, pair.values[layer].detach().numpy(), rtol=2e-5, atol=1e-15)
    other = Pair(pair.image)
    other.op("Relu", "image", ref=torch.relu)
    model = other.model()
    assert refined(model) is model


def test_only_what_has_a_softmax_behind_it_has_another_graph(tmp_path: Path) -> None:
    """The gradient of scores asks nothing about the largest."""
    graph = ModelRepository().get().forward()
    manifest = ModelRepository().get().manifest
    kinds = {
        layer: [node.op_type for node in differentiate(graph, manifest.layer(layer).tensor).graph.node]
        for layer in (manifest.output, LOG_PROBABILITIES)
    }
    assert "ArgMax" not in kinds[manifest.output]
    assert kinds[LOG_PROBABILITIES].count("ArgMax") == 1
    assert len(kinds[LOG_PROBABILITIES]) - len(kinds[manifest.output]) < 20


def test_the_second_derivative_goes_through() -> None:
    z = torch.from_numpy(scores(1.0)).double().requires_grad_()
    assert torch.autograd.gradcheck(log_softmax, (z,))
    assert torch.autograd.gradcheck(softmax, (z,))
    assert torch.autograd.gradgradcheck(log_softmax, (z,))
    assert torch.autograd.gradgradcheck(softmax, (z,))


def test_torchscript_has_them_right_as_well(tmp_path: Path) -> None:
    """A network whose scores are many times as large."""
    module = random_module("patterns", classes=5)
    module.classifier.weight.mul_(1600)
    weights = save_weights(module, tmp_path / "w.safetensors")
    add_architecture(tmp_path / "m", "patterns", weights, name="sure", torchscript=True)
    stored = ModelRepository(tmp_path / "m").get("sure")
    script, network = torchscript.load(stored.file("model.ts")), load_network(stored).double()
    images = np.random.default_rng(0).random((2, 3, 96, 96), np.float32)
    pixels = torch.from_numpy(images).double().requires_grad_()
    logits = network(pixels)
    top = logits.argmax(1).numpy()
    cotangent = np.eye(5, dtype=np.float32)[top]
    wanted = exact(logits)
    rest = 1 - wanted.detach().exp().numpy()[np.arange(2), top]
    assert (rest < 1e-7).all()
    (gradient,) = torch.autograd.grad(wanted, pixels, torch.from_numpy(cotangent).double(), retain_graph=True)
    value, found = script.gradient(images, LOG_PROBABILITIES, cotangent)
    np.testing.assert_allclose(
        value[np.arange(2), top], wanted.detach().numpy()[np.arange(2), top], rtol=0.05
    )
    scale = np.abs(gradient.numpy()).max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found / scale, gradient.numpy() / scale, atol=0.05)
    _, found = script.gradient(images, PROBABILITIES, cotangent)
    np.testing.assert_allclose(found / scale, gradient.numpy() / scale, atol=0.05)
