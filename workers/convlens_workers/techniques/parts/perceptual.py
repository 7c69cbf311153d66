"""How far a style network's pictures are from a style, and from its inputs (Johnson et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from convlens_workers.techniques.base import FeatureNetwork
from convlens_workers.techniques.parts.loop import Losses
from convlens_workers.techniques.parts.losses import EPSILON, gram, gram_error, total_variation


@dataclass
class Perceptual:
    """Losses of a batch (N, 3, H, W); all are means over it, so that a batch may be taken in parts.

    Attributes:
        network: compares the pictures.
        style: (1, 3, H, W) in [0, 1].
        layers: of the style, with their weights.
        content_layer: where a styled picture shall have the features of the input.
        weights: of "style", "content" and "tv".
    """

    network: FeatureNetwork
    style: Tensor
    layers: Mapping[str, float]
    content_layer: str
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        with torch.no_grad():
            taps = self.network.taps(self.style, self.layers)
        self._grams = {name: gram(value) for name, value in taps.items()}
        self._scales = {
            name: float(gram_error(torch.zeros_like(taps[name]), wanted)) or 1.0
            for name, wanted in self._grams.items()
        }

    def __call__(self, styled: Tensor, inputs: Tensor) -> tuple[Tensor, Losses]:
        """The weighted sum of the losses, and each of them by name, for styled pictures and their inputs."""
        with torch.no_grad():
            wanted = self.network.taps(inputs, [self.content_layer])[self.content_layer]
        taps = self.network.taps(styled, dict.fromkeys([*self.layers, self.content_layer]))
        terms = {
            "style": self._style(taps),
            "content": content_error(taps[self.content_layer], wanted),
            "tv": total_variation(styled),
        }
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum(), terms

    def _style(self, taps: Mapping[str, Tensor]) -> Tensor:
        """Errors of the Gram matrices over those of no features at all; 1 is nothing alike."""
        errors = [
            weight * gram_error(taps[name], self._grams[name]) / (len(taps[name]) * self._scales[name])
            for name, weight in self.layers.items()
        ]
        return torch.stack(errors).sum()


def content_error(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of each image's features over their mean square; the mean over the batch."""
    axes = (1, 2, 3)
    return ((features - target).square().mean(axes) / target.square().mean(axes).clamp_min(EPSILON)).mean()
