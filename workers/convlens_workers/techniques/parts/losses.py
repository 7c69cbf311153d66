"""What images are compared by: features of a layer (N, C, ...) in, one number out."""

from __future__ import annotations

import torch
from torch import Tensor


def gram(features: Tensor) -> Tensor:
    """Gram matrices (N, C, C): F F^T over the positions, divided by their number."""
    flat = features.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def likeness(features: Tensor) -> Tensor:
    """Mean cosine between the Gram matrices of different images of a batch (lucid's diversity term)."""
    matrices = gram(features.reshape(*features.shape[:2], -1)).flatten(1)
    unit = torch.nn.functional.normalize(matrices, dim=1)
    count = len(features)
    return ((unit @ unit.T).sum() - count) / (count * (count - 1))
