"""What images are compared by: features of a layer (N, C, ...) in, one number out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """A weighted loss on the features of one layer."""

    name: str
    layer: str
    weight: float
    loss: Loss


def total(parts: Iterable[Part], features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and each loss by name, before its weight."""
    losses = {part.name: (part.weight, part.loss(features[part.layer])) for part in parts}
    whole = torch.stack([weight * loss for weight, loss in losses.values()]).sum()
    return whole, {name: loss for name, (_, loss) in losses.items()}


def gram(features: Tensor) -> Tensor:
    """Gram matrices (N, C, C): F F^T over the positions, divided by their number."""
    flat = features.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def gram_error(features: Tensor, target: Tensor) -> Tensor:
    """E_l = sum (G - G^)^2 / (4 N^2 M^2) (Gatys et al. 2015) for N channels, M positions.

    `gram` has divided by M already, so that M may be another one in the target.
    """
    return (gram(features) - target).square().sum() / (4 * features.shape[1] ** 2)


def gram_loss(target: Tensor) -> Loss:
    """`gram_error` against `target`, over that of no features at all: 1 is nothing alike, 0 the same."""
    scale = float(target.square().sum() / (4 * target.shape[1] ** 2)) or 1.0
    return lambda features: gram_error(features, target) / scale


def likeness(features: Tensor) -> Tensor:
    """Mean cosine between the Gram matrices of different images of a batch (lucid's diversity term)."""
    matrices = gram(features.reshape(*features.shape[:2], -1)).flatten(1)
    unit = torch.nn.functional.normalize(matrices, dim=1)
    count = len(features)
    return ((unit @ unit.T).sum() - count) / (count * (count - 1))


def total_variation(image: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, down and across together."""
    down, across = image.diff(dim=2), image.diff(dim=3)
    return (down.square().sum() + across.square().sum()) / image.numel()
