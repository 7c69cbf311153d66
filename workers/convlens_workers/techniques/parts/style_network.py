"""The style network that is trained: all its weights in one vector, as the optimisers take them."""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from convlens_models.architectures.base import HALF
from convlens_models.architectures.fast_style import FastStyle
from convlens_workers.techniques.parts.optimisers import joined, separated

MULTIPLE: Final = 4
"""Sides of an image must be multiples of it."""


class StyleNetwork:
    """A style network of `width`; each call is told its weights, float32 (P)."""

    def __init__(self, width: int) -> None:
        with torch.device("meta"):
            self._module = FastStyle(width).eval()
        self._shapes = {name: value.shape for name, value in self._module.named_parameters()}

    def begin(self, rng: torch.Generator) -> Tensor:
        """PyTorch's random weights (P): kernels and biases U(+-1 / sqrt(fan in)), norms 1 and 0."""
        weights = []
        for name, shape in self._shapes.items():
            layer, _, kind = name.rpartition(".")
            kernel = self._shapes[f"{layer}.weight"]
            if len(kernel) == 4:
                bound = 1 / math.sqrt(math.prod(kernel[1:]))
                weights.append(torch.empty(shape).uniform_(-bound, bound, generator=rng))
            else:
                weights.append(torch.full(shape, 1.0 if kind == "weight" else 0.0))
        return joined(weights)

    def weights(self, vector: Tensor) -> dict[str, Tensor]:
        """`vector` by the keys of the network's `state_dict`, as views."""
        return separated(vector, self._shapes)

    def paint(self, vector: Tensor, images: Tensor) -> Tensor:
        """`images` (N, 3, H, W) in [0, 1] in the style, of the same shape; any H and W of at least 16."""
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        mean, std = (images.new_tensor(value).view(3, 1, 1) for value in (HALF, HALF))
        styled: Tensor = functional_call(self._module, self.weights(vector), ((padded - mean) / std,))
        return styled[:, :, :height, :width]
