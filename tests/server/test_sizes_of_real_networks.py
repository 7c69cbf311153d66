"""VGG-16 and AlexNet as they are, with random weights, on pictures of a size that their heads do not take."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
import torch
from support.kinks import assert_same_gradient
from support.networks import random_module, save_weights
from support.replies import tensors_of
from support.server_thread import serving

from convlens import wire
from convlens.v1 import (
    attribution_pb2,
    attribution_pb2_grpc,
    image_pb2,
    inspection_pb2,
    inspection_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
)
from convlens_models.architectures.base import IMAGENET_MEAN, IMAGENET_STD
from convlens_models.importing import export
from convlens_models.importing.importer import add_architecture
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.network import Network

pytestmark = pytest.mark.slow

CASES = {"alexnet": ("alexnet", False), "vgg16": ("vgg16", False), "alexnet.onnx": ("alexnet", True)}
LAST = {"alexnet": "features.12", "vgg16": "features.30"}
SIZE = 384, 512


@pytest.fixture(scope="module", params=CASES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[grpc.Channel, Network, str]]:
    """A server that has the network as "x", the same in PyTorch, and its last layer before the head."""
    architecture, foreign = CASES[request.param]
    root, files = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("files")
    module = random_module(architecture, classes=3)
    if foreign:
        add_onnx(root, _file(module, files), "x")
    else:
        add_architecture(root, architecture, save_weights(module, files / "x.safetensors"), name="x")
    network = Network(module, IMAGENET_MEAN, IMAGENET_STD)
    with serving(models=root, threads=1) as app, grpc.insecure_channel(app.address) as channel:
        yield channel, network, LAST[architecture]


def _file(module: torch.nn.Module, folder: Path) -> Path:
    """The network as a file of somebody else, who normalises before it, with 224 pixels declared."""
    exported = export.write(module, folder, mean=(0, 0, 0), std=(1, 1, 1), size=224, heads=False)
    onnx.load_external_data_for_model(exported.model, str(folder))
    onnx.save(exported.model, folder / "x.onnx")
    return folder / "x.onnx"


def _saliency(network: Network, layer: str, images: np.ndarray) -> np.ndarray:
    """The gradient of the mean of channel 5, in float64: float32 takes other sides of near ties."""
    pixels = torch.from_numpy(images).double().requires_grad_()
    (gradient,) = torch.autograd.grad(network.taps(pixels, [layer])[layer][0, 5].mean(), pixels)
    return gradient.numpy()


def test_other_sizes_before_the_head(served: tuple[grpc.Channel, Network, str]) -> None:
    channel, network, last = served
    image = np.random.default_rng(0).random((3, *SIZE), np.float32)
    pictures = [image_pb2.Image(tensor=wire.to_tensor(image))]
    with torch.no_grad():
        exact = network.taps(torch.from_numpy(image)[None], [last])[last].numpy()
    inspection = inspection_pb2_grpc.InspectionServiceStub(channel)

    request = inspection_pb2.GetActivationsRequest(model={"name": "x"}, images=pictures, layers=[last])
    _, found = tensors_of(inspection.GetActivations(request))
    assert np.abs(found[last] - exact).max() < 1e-4 * np.abs(exact).max()

    cut = np.ascontiguousarray(image[:, :160, :194])  # In float64 the whole picture would take minutes.
    item = {"target": {"channel": {"layer": last, "channel": 5}}, "gradient": {}}
    saliency = attribution_pb2.AttributeRequest(
        model={"name": "x"}, images=[image_pb2.Image(tensor=wire.to_tensor(cut))], attributions=[item]
    )
    _, found = tensors_of(attribution_pb2_grpc.AttributionServiceStub(channel).Attribute(saliency))
    exact_network = deepcopy(network).double()
    assert_same_gradient(found["0.gradient"], cut[None], lambda x: _saliency(exact_network, last, x), 1e-4)

    parts = [
        inspection_pb2.StreamFeaturesRequest(options={"model": {"name": "x"}, "layer": last}),
        inspection_pb2.StreamFeaturesRequest(image={"name": "a", "image": pictures[0]}),
    ]
    _, found = tensors_of(inspection.StreamFeatures(iter(parts)))
    np.testing.assert_allclose(found["a"], exact.mean((2, 3))[0], rtol=1e-3, atol=1e-5 * np.abs(exact).max())

    filters = model_pb2.GetFiltersRequest(model={"name": "x"})
    _, kernels = tensors_of(model_pb2_grpc.ModelServiceStub(channel).GetFilters(filters))
    assert np.array_equal(kernels["features.0"], network.module.features[0].weight.numpy())
