"""The gradients of the built-in architectures, with random weights, against autograd.

Random networks of many layers amplify rounding: where two inputs of a pool nearly tie, float32 may choose the
other. So the bound is ten times the error of PyTorch's own float32 gradient, or 1e-5 where that is smaller.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.pair import distance, session
from torch import nn

from convlens_models.architectures import ARCHITECTURES
from convlens_models.graphs.autodiff import ReluRule, differentiate
from convlens_models.importing.importer import write_network
from convlens_models.network import Network

SIZES = {
    "inception_v3": 107,
    "efficientnet_lite0": 33,
    "alexnet": 224,
    "vgg16": 224,
    "vgg19": 224,
    "patterns": 96,
}
HEAVY = {"alexnet", "vgg16", "vgg19", "resnet50", "inception_v3", "efficientnet_lite1", "efficientnet_lite2"}
CLASSES = 7


def random_network(name: str) -> Network:
    """He-initialised, with batch norms that do something."""
    torch.manual_seed(1)
    plan = ARCHITECTURES[name]
    module = plan.build(CLASSES).eval()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.normal_(layer.running_mean, 0, 0.1)
    return Network(module, plan.mean, plan.std).requires_grad_(False)


def gradient(network: nn.Module, image: torch.Tensor, cotangent: torch.Tensor) -> np.ndarray:
    image = image.clone().requires_grad_()
    (actual,) = torch.autograd.grad(network(image), image, cotangent)
    return actual.numpy()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in ARCHITECTURES]
)
def test_architecture_equals_autograd(name: str, tmp_path: Path) -> None:
    network, size = random_network(name), SIZES.get(name, 64)
    plan = ARCHITECTURES[name]
    manifest = write_network(tmp_path, network.module, plan, plan.mean, plan.std)
    model = onnx.load(tmp_path / "forward.onnx", load_external_data=False)
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(1, 3, size, size, generator=generator)
    cotangent = torch.randn(1, CLASSES, generator=generator)
    own = gradient(network, image, cotangent)
    network.double()
    exact = torch.from_numpy(gradient(network, image.double(), cotangent.double()))
    bound = max(1e-5, 10 * distance(own, exact))
    feeds = {"image": image.numpy(), "cotangent": cotangent.numpy()}
    for shape in (None, (1, size, size)) if manifest.dynamic_size else ((1, size, size),):
        graph = differentiate(model, manifest.output, ReluRule.GRADIENT, shape)
        actual = session(graph, tmp_path).run(["image_gradient"], feeds)[0]
        assert distance(actual, exact) < bound, shape
