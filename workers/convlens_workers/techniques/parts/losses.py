"""Losses that compare images: functions from features of a layer (N, C, ...) to one number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from convlens_workers.techniques.parts.parametrisation import decorrelated

Loss = Callable[[Tensor], Tensor]
EPSILON: Final = 1e-4
"""Added to variances, so that square roots have gradients."""


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


def gram(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Gram matrices (N, C, C): F F^T over the positions, divided by their number.

    `mask` (1, 1, H, W) says how much each position counts; it is brought to the size of the features.
    """
    flat, share = features.flatten(2), _shares(features, mask)
    return flat * share @ flat.mT


def mean(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Means (N, C) over the positions, with a mask as in `gram`."""
    return (features.flatten(2) * _shares(features, mask)).sum(2)


def _shares(features: Tensor, mask: Tensor | None) -> Tensor:
    """What each position counts (1, 1, positions), 1 together."""
    if mask is None:
        return features.new_full((1, 1, 1), 1 / max(1, features[0, 0].numel()))
    small = functional.interpolate(mask, features.shape[2:], mode="bilinear", antialias=True).flatten(2)
    return small / small.sum().clamp_min(torch.finfo(small.dtype).tiny)


def gram_error(features: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """E_l = sum (G - G^)^2 / (4 N^2 M^2) (Gatys et al. 2015) for N channels, M positions.

    `gram` has divided by M already, so that M may be another one in the target.
    """
    return (gram(features, mask) - target).square().sum() / (4 * features.shape[1] ** 2)


def gram_loss(target: Tensor, mask: Tensor | None = None) -> Loss:
    """`gram_error` against `target`, over that of no features at all: 1 is nothing alike, 0 the same."""
    scale = float(target.square().sum() / (4 * target.shape[1] ** 2)) or 1.0
    return lambda features: gram_error(features, target, mask) / scale


def wasserstein_loss(target: Tensor, mask: Tensor | None = None, target_mask: Tensor | None = None) -> Loss:
    """Squared Wasserstein-2 distance of normal distributions with the means and covariances of the features.

    |m - m'|^2 + tr(S + S' - 2 (S'^1/2 S S'^1/2)^1/2), over the mean square of `target` (1, C, H, W), the
    features of the style: 1 is nothing alike. Each side has a mask of its own, as in `gram`.
    """
    scale = mean(target.square(), target_mask).mean().sqrt().clamp_min(EPSILON)
    wanted_mean, wanted = _normal(target / scale, target_mask)
    values, vectors = torch.linalg.eigh(wanted)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.mT

    def loss(features: Tensor) -> Tensor:
        centre, covariance = _normal(features / scale, mask)
        cross = torch.linalg.eigvalsh(root @ covariance @ root).clamp_min(EPSILON**2).sqrt().sum()
        traces = wanted.trace() + covariance.trace() - 2 * cross
        distance: Tensor = (centre - wanted_mean).square().sum() + traces
        return distance / len(covariance)

    return loss


def _normal(features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean (C) and covariance (C, C) of one image's features."""
    centre = mean(features, mask)[0]
    noise = EPSILON * torch.eye(len(centre), device=centre.device)
    return centre, gram(features, mask)[0] - torch.outer(centre, centre) + noise


def content_loss(target: Tensor) -> Loss:
    """Mean squared difference from the features `target`, over their mean square."""
    scale = target.square().mean().clamp_min(EPSILON)
    return lambda features: (features - target).square().mean() / scale


def likeness(features: Tensor) -> Tensor:
    """Mean cosine between the Gram matrices of different images of a batch (lucid's diversity term)."""
    matrices = gram(features.reshape(*features.shape[:2], -1)).flatten(1)
    unit = functional.normalize(matrices, dim=1)
    count = len(features)
    return ((unit @ unit.T).sum() - count) / (count * (count - 1))


def total_variation(image: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, down and across together."""
    down, across = image.diff(dim=2), image.diff(dim=3)
    return (down.square().sum() + across.square().sum()) / image.numel()


def colour_variation(image: Tensor) -> Tensor:
    """`total_variation` of decorrelated colours; of a grey picture the same as of red, green and blue.

    What differs from blue to yellow or from green to magenta counts many times as much as light and dark:
    coloured meshes, which a network may like as well as edges, are dear, and edges are not.
    """
    return total_variation(decorrelated(image))
