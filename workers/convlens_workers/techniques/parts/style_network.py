"""The style network that is trained: all its weights in one vector, as the optimisers take them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from convlens_models.architectures.fast_style import FastStyle
from convlens_models.style_networks import FAST_STYLE, LAST, PIXELS
from convlens_workers.techniques.parts.optimisers import joined, separated


class StyleNetwork:
    """A style network of `width`; each call is told its weights, float32 (P).

    The last layer learns in the units of its pixels: Adam's steps mean as much as where it was trained.
    Pixels of a TransformerNet are not clipped here: one that is learns nothing.
    """

    def __init__(self, width: int, architecture: str = FAST_STYLE) -> None:
        end = None if architecture == FAST_STYLE else nn.Identity()
        self._pixels = PIXELS[architecture]
        with torch.device("meta"):
            self._module = FastStyle(width, end).eval()
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

    def vector(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The weights (P) that a network of this width has by these keys."""
        return joined(weights[name] * self._unit(name) for name in self._shapes)

    def weights(self, vector: Tensor) -> dict[str, Tensor]:
        """`vector` by the keys of the stored network's `state_dict`."""
        parts = separated(vector, self._shapes)
        return {
            name: value if (unit := self._unit(name)) == 1 else value / unit for name, value in parts.items()
        }

    def paint(self, vector: Tensor, images: Tensor) -> Tensor:
        """`images` (N, 3, H, W) in [0, 1] in the style, of the same shape; any H and W of at least 16."""
        height, width = images.shape[2:]
        mean, std = (images.new_tensor(value).view(3, 1, 1) for value in self._pixels[:2])
        styled: Tensor = functional_call(self._module, self.weights(vector), ((images - mean) / std,))
        return styled[:, :, :height, :width]

    def _unit(self, name: str) -> float:
        """What the weights that are learned are, over those of the stored network."""
        return self._pixels.white if name.startswith(LAST) else 1.0
