"""The network that is trained: all its weights in one vector, as the optimisers take them."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from convlens_models.architectures.base import HALF
from convlens_models.architectures.fast_style import FastStyle

MULTIPLE: Final = 4
"""Sides of an image must be multiples of it."""


class StyleNetwork:
    """A style network of `width`; each call is told its weights, float32 (P)."""

    def __init__(self, width: int) -> None:
        with torch.device("meta"):
            self._module = FastStyle(width).eval()
        self._shapes = {name: value.shape for name, value in self._module.named_parameters()}

    def begin(self, rng: torch.Generator) -> Tensor:
        """As PyTorch starts them: kernels and biases of convolutions U(+-1 / sqrt(fan in)), norms 1 and 0."""
        found = {}
        for name, shape in self._shapes.items():
            layer, _, kind = name.rpartition(".")
            kernel = self._shapes[f"{layer}.weight"]
            if len(kernel) == 4:
                bound = 1 / math.sqrt(math.prod(kernel[1:]))
                found[name] = torch.empty(shape).uniform_(-bound, bound, generator=rng)
            else:
                found[name] = torch.full(shape, 1.0 if kind == "weight" else 0.0)
        return torch.cat([value.flatten() for value in found.values()])

    def weights(self, vector: Tensor) -> dict[str, Tensor]:
        """`vector` by the keys of the network's `state_dict`, as views."""
        ends = accumulate(shape.numel() for shape in self._shapes.values())
        pieces = torch.tensor_split(vector, [*ends][:-1])
        return {
            name: piece.view(shape) for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }

    def paint(self, vector: Tensor, images: Tensor) -> Tensor:
        """`images` (N, 3, H, W) in [0, 1] painted, of the same shape; any H and W of at least 16."""
        height, width = images.shape[2:]
        padded = images
        if height % MULTIPLE or width % MULTIPLE:
            padded = F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        mean, std = (images.new_tensor(value).view(3, 1, 1) for value in (HALF, HALF))
        painted: Tensor = functional_call(self._module, self.weights(vector), ((padded - mean) / std,))
        return painted[:, :, :height, :width]
