"""A style network with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convlens_models.architectures.fast_style import FastStyle


def random_style(seed: int = 0, width: int = 32) -> FastStyle:
    """The same network every time, in evaluation mode; its norms have telling weights as well."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = FastStyle(width).eval().requires_grad_(False)
        for part in network.modules():
            if isinstance(part, nn.InstanceNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.2)
    return network


def style_state(seed: int = 0, width: int = 32) -> dict[str, Tensor]:
    """Its weights."""
    return dict(random_style(seed, width).state_dict())
