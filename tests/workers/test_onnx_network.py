"""Networks that came as ONNX graphs, for jobs: values and gradients against a torch module in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support import one_size
from support.foreign_onnx import classifier, node, save
from support.networks import random_module, save_weights
from torch import Tensor

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens.v1 import job_pb2, model_pb2
from convlens_models.graphs.surgery import average_pooled, cut
from convlens_models.importing.importer import add_architecture
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.network import Network, load_network
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.jobs.techniques import layers
from convlens_workers.networks import Networks
from convlens_workers.onnx_network import KEPT, OnnxNetwork
from convlens_workers.techniques.base import Task
from convlens_workers.techniques.texture import texture

ARCHITECTURE = "squeezenet1_0"  # Overlapping max pools, branches, and a ReLU before the last pool.
LAYERS = {
    "one": ["features.4"],
    "several, one behind the other": ["features.1", "features.3", "features.4", "features.8"],
    "both sides of a max pool": ["features.1", "features.2"],
    "an activation and a head": ["features.12", "log_probabilities"],
    "one twice": ["features.3", "features.3"],
    "a head": ["probabilities"],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    """The same network twice: "own", with a torch module, and "foreign", a graph."""
    root = tmp_path_factory.mktemp("models")
    weights = save_weights(random_module(ARCHITECTURE), root / "weights.safetensors")
    add_architecture(root, ARCHITECTURE, weights, name="own")
    own = ModelRepository(root).get("own")
    graph = cut(onnx.load(own.file("forward.onnx")), [own.manifest.layer("logits").tensor])
    onnx.save(graph, root / "foreign.onnx")
    add_onnx(root, root / "foreign.onnx", "foreign", mean=(0, 0, 0), std=(1, 1, 1), input_size=64)
    return ModelRepository(root)


def in_float64(models: ModelRepository) -> Network:
    network = load_network(models.get("own")).double()
    network.mean, network.std = network.mean.double(), network.std.double()
    return network


def gradient(network: Network | OnnxNetwork, images: Tensor, layers: list[str]) -> Tensor:
    """Of a loss that is not linear in any layer, and has another weight for each."""
    seen = images.clone().requires_grad_()
    taps = network.taps(seen, layers)
    parts = [
        (number + 1) * (value.mean() + value.square().mean()) for number, value in enumerate(taps.values())
    ]
    (change,) = torch.autograd.grad(torch.stack(parts).sum(), seen)
    return change


@pytest.mark.parametrize("pool", [None, (2.0, 1), (1.56, 2)])
@pytest.mark.parametrize("case", LAYERS)
def test_gradients_are_those_of_the_module_in_float64(models: ModelRepository, case: str, pool) -> None:
    images = torch.rand(2, 3, 72, 65, generator=torch.Generator().manual_seed(0))
    exact, foreign = in_float64(models), OnnxNetwork(models.get("foreign"))
    if pool is not None:
        exact, foreign = exact.average_pooled(*pool), foreign.average_pooled(*pool)
    names = list(dict.fromkeys(LAYERS[case]))
    values, expected = foreign.taps(images, LAYERS[case]), exact.taps(images.double(), LAYERS[case])
    assert list(values) == names
    for name in names:
        torch.testing.assert_close(values[name].double(), expected[name], rtol=1e-4, atol=1e-5)
    wanted = gradient(exact, images.double(), LAYERS[case])
    error = (gradient(foreign, images, LAYERS[case]) - wanted).norm() / wanted.norm()
    assert error < 5e-5, error  # Means of probabilities are constant: their gradients cancel.


def test_a_layer_that_is_not_used_adds_nothing_and_values_alone_need_no_gradient(models) -> None:
    foreign = OnnxNetwork(models.get("foreign"))
    images = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(1), requires_grad=True)
    taps = foreign.taps(images, ["features.3", "features.4"])
    (gradient,) = torch.autograd.grad(taps["features.3"].sum(), images)
    (alone,) = torch.autograd.grad(foreign.taps(images, ["features.3"])["features.3"].sum(), images)
    torch.testing.assert_close(gradient, alone, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not foreign.taps(images, ["features.3"])["features.3"].requires_grad


def test_layers_are_checked_and_only_the_last_sessions_are_kept(models) -> None:
    foreign = OnnxNetwork(models.get("foreign"))
    with pytest.raises(InvalidArgument, match="nothing"):
        foreign.taps(torch.rand(1, 3, 40, 40), ["nothing"])
    for side in range(40, 40 + 2 * KEPT):
        gradient(foreign, torch.rand(1, 3, side, side), ["features.1"])
    assert len(foreign._sessions) == KEPT


def test_pools_that_average_cannot_take_the_place_of_are_refused() -> None:
    gaps = node("MaxPool", ["relu"], "middle", kernel_shape=[2, 2], dilations=[2, 2])
    with pytest.raises(FailedPrecondition, match="middle"):
        average_pooled(classifier([gaps]))


def test_a_job_runs_on_a_graph_as_on_a_module(models, tmp_path: Path) -> None:
    """Texture: several layers, average pools, L-BFGS; and what a worker loads for each."""
    networks = Networks(models, torch.device("cpu"), 2)
    params = job_pb2.Texture(layers=["features.1", "features.3"], steps=4, scales=1, height=64, width=64)
    sample = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))

    def losses(name: str) -> list[float]:
        network, manifest = networks.get(model_pb2.ModelRef(name=name))
        assert networks.get(model_pb2.ModelRef(name=name))[0] is network
        files = CollectionFiles("memory:///")
        task = Task(params, network, manifest, {"sample": sample}, 0, torch.device("cpu"), files)
        return [float(step.losses["features.1"]) for step in texture(task)]

    own, foreign = losses("own"), losses("foreign")
    np.testing.assert_allclose(foreign, own, rtol=1e-3)
    assert foreign[-1] < 0.6 * foreign[0]


def test_style_is_described_by_the_same_layers(models: ModelRepository) -> None:
    """The graph's own normalisation, a layer with parts, is no activation."""
    own, foreign = (models.get(name).manifest for name in ("own", "foreign"))
    assert layers.activations(foreign) == layers.activations(own)
    assert layers.content_layer(foreign) == layers.content_layer(own)


def test_any_classifier_has_gradients(tmp_path: Path) -> None:
    manifest = add_onnx(tmp_path / "m", save(classifier(), tmp_path), "foreign")
    network = OnnxNetwork(ModelRepository(tmp_path / "m").get("foreign"))
    layers = [layer.name for layer in manifest.layers]
    gradients = gradient(network, torch.rand(2, 3, 32, 32), layers)
    assert gradients.isfinite().all()
    assert gradients.any()


@pytest.mark.parametrize("kind", ["Relu", "Clip"])
def test_a_silent_unit_gets_a_gradient_only_when_redirected(tmp_path: Path, kind: str) -> None:
    """Behind a ReLU or ReLU6 that is closed everywhere the usual gradient is 0; values stay as they are."""
    model = classifier()
    if kind == "Clip":
        (relu,) = (node for node in model.graph.node if node.op_type == "Relu")
        relu.op_type = kind
        relu.input.extend(["zero", "six"])
        bounds = {"zero": 0, "six": 6}
        model.graph.initializer.extend(
            numpy_helper.from_array(np.array(value, np.float32), name) for name, value in bounds.items()
        )
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "conv.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(8, -99, np.float32), "conv.bias"))
    add_onnx(tmp_path / "m", save(model, tmp_path), "silent")
    network = OnnxNetwork(ModelRepository(tmp_path / "m").get("silent"))
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def found(layer: str) -> tuple[Tensor, Tensor]:
        value = network.taps(image, [layer])[layer]
        return value.detach(), torch.autograd.grad(value.sum(), image)[0]

    assert not found("relu")[1].any()
    with network.redirected():
        value, opened = found("relu")
    assert not value.any()
    torch.testing.assert_close(opened, 0.01 * found("conv")[1], rtol=1e-4, atol=1e-6)
    assert not found("relu")[1].any()


def test_layers_before_a_head_of_one_size_have_values_and_gradients_at_others(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 37, 62, generator=torch.Generator().manual_seed(4))
    (tmp_path / "m").mkdir()
    one_size.add_all(tmp_path / "m")
    exact = Network(one_size.module(), one_size.MEAN, one_size.STD).double()
    exact.mean, exact.std = exact.mean.double(), exact.std.double()
    wanted = gradient(exact, images.double(), ["features.4", "features.7"])
    found = gradient(
        OnnxNetwork(ModelRepository(tmp_path / "m").get("foreign")), images, ["features.4", "features.7"]
    )
    assert (found - wanted).norm() < 5e-5 * wanted.norm()
