"""Networks with random weights for tests, and what PyTorch computes at their layers."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from convlens_models.architectures import ARCHITECTURES
from convlens_models.network import Network


def random_module(architecture: str, classes: int = 7, seed: int = 0, **options: bool) -> nn.Module:
    """A built-in network whose batch norms have telling statistics as well."""
    torch.manual_seed(seed)
    module = ARCHITECTURES[architecture].build(classes, **options).eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.2)
    return module.requires_grad_(False)


def save_weights(module: nn.Module, path: Path) -> Path:
    save_file(module.state_dict(), path)
    return path


def values(network: Network, images: Tensor, layers: list[str]) -> dict[str, Tensor]:
    with torch.no_grad():
        return network.taps(images, layers)
