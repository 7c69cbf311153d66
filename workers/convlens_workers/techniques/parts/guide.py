"""Guided DeepDream: features grow along those of another picture, the guide."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

BLOCK: Final = 1 << 22
"""The number of inner products that are held in memory at once."""


def guided(features: Tensor, guide: Tensor) -> Tensor:
    """sum_p a(p) . b(p) / ||b||, for features a (1, C, ...) and those of the guide (1, C, ...).

    b(p) is the feature of the guide that has the largest inner product with a(p); it counts as constant.
    ||b|| is the norm over all p, so that layers with large features weigh no more than others.
    """
    ours, theirs = (value.reshape(value.shape[1], -1) for value in (features, guide))
    wanted = best_matches(ours.detach(), theirs)
    norm = torch.linalg.vector_norm(wanted).clamp_min(torch.finfo(wanted.dtype).tiny)
    value: Tensor = (ours * wanted).sum() / norm
    return value


def best_matches(ours: Tensor, theirs: Tensor) -> Tensor:
    """For each column of `ours` (C, P) the one of `theirs` (C, Q) with the largest inner product, (C, P)."""
    block = max(1, BLOCK // theirs.shape[1])
    return theirs[:, torch.cat([(part.T @ theirs).argmax(1) for part in torch.split(ours, block, dim=1)])]
