"""TorchScript files equal eager autograd under every ReLU rule, and the ONNX graphs."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.networks import random_module, save_weights, values
from torch import nn

from convlens.errors import DataLoss, InvalidArgument
from convlens_models.graphs import autodiff
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.importing import torchscript, verify
from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import INPUT
from convlens_models.network import Network, load_network
from convlens_models.repository import TORCHSCRIPT, ModelRepository

ARCHITECTURES = {
    "patterns": ("features.conv3_1", "features.relu3_2", "classifier", "log_probabilities"),
    "squeezenet1_1": ("features.3", "features.6.expand3x3_activation", "classifier.2", "logits"),
    "resnet18": ("layer1.0", "layer2.0.relu1", "layer3.1.bn2", "fc"),
}


class _Rule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rule):
        y = x.clamp(min=0)
        ctx.save_for_backward(y)
        ctx.rule = rule
        return y

    @staticmethod
    def backward(ctx, signal):
        (y,) = ctx.saved_tensors
        gate = torch.ones_like(y) if ctx.rule is ReluRule.DECONVNET else (y > 0)
        return (signal if ctx.rule is ReluRule.GRADIENT else signal.clamp(min=0)) * gate, None


class Rectifier(nn.Module):
    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, x):
        return _Rule.apply(x, self.rule)


def with_rule(network: Network, rule: ReluRule) -> Network:
    network = copy.deepcopy(network)
    for part in list(network.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(part, name, Rectifier(rule))
    return network


@pytest.fixture(scope="module", params=ARCHITECTURES)
def stored(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    weights = save_weights(random_module(request.param), root / "w.safetensors")
    manifest = add_architecture(root, request.param, weights, torchscript=True)
    assert manifest.engine == "torchscript"
    return ModelRepository(root).get(request.param)


@pytest.fixture(scope="module")
def script(stored):
    return torchscript.load(stored.file(TORCHSCRIPT))


def test_every_layer_at_another_size_than_it_was_traced_with(stored, script):
    names = [layer.name for layer in stored.manifest.layers]
    images = torch.rand(2, 3, 70, 83)
    expected = values(load_network(stored), images, names)
    actual = script.forward(images.numpy(), names)
    for name in names:
        np.testing.assert_allclose(actual[name], expected[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("rule", ReluRule)
def test_gradients_equal_eager_autograd_and_the_onnx_graph(stored, script, rule):
    network = with_rule(load_network(stored), rule)
    for layer in ARCHITECTURES[stored.manifest.name]:
        images = torch.rand(2, 3, 64, 75, requires_grad=True)
        value = network.taps(images, [layer])[layer]
        cotangent = torch.randn_like(value)
        (expected,) = torch.autograd.grad(value, images, cotangent)
        actual = script.gradient(images.detach().numpy(), layer, cotangent.numpy(), rule)
        assert relative(actual[0], value.detach().numpy()) < 1e-5
        assert relative(actual[1], expected.numpy()) < 1e-4, layer
        graph = autodiff.differentiate(stored.forward(), layer, rule)
        feeds = {INPUT: images.detach().numpy(), autodiff.COTANGENT: cotangent.numpy()}
        (other,) = verify.run(graph, stored.path, [autodiff.IMAGE_GRADIENT], feeds)
        assert relative(actual[1], other) < 1e-4, layer


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def test_the_cotangent_may_be_a_function_of_the_value(script, stored):
    images = np.random.default_rng(0).random((3, 3, 64, 64), np.float32)
    output = stored.manifest.output

    def best(value: np.ndarray) -> np.ndarray:
        return np.eye(value.shape[1], dtype=np.float32)[value.argmax(1)]

    value, gradient = script.gradient(images, output, best)
    np.testing.assert_array_equal(gradient, script.gradient(images, output, best(value))[1])


def test_threads_do_not_disturb_each_other(script, stored):
    images = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    output = stored.manifest.output
    cotangent = np.ones((1, 7), np.float32)

    def gradient(rule: ReluRule) -> np.ndarray:
        return script.gradient(images, output, cotangent, rule)[1]

    alone = [gradient(rule) for rule in ReluRule]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(gradient, [*ReluRule] * 4))
    for index, actual in enumerate(together):
        np.testing.assert_allclose(actual, alone[index % 3], rtol=1e-5, atol=1e-7)


def test_unknown_layers_are_refused(script):
    with pytest.raises(InvalidArgument, match="layer = 'nothing'"):
        script.forward(np.zeros((1, 3, 64, 64), np.float32), ["nothing"])


def test_other_files_are_data_loss(tmp_path):
    (tmp_path / "text.ts").write_text("text")
    with pytest.raises(DataLoss, match="is not a TorchScript network"):
        torchscript.load(tmp_path / "text.ts")
