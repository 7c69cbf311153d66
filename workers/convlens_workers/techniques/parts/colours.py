"""Colours of one picture for another."""

from __future__ import annotations

import torch
from torch import Tensor


def match_histogram(image: Tensor, sample: Tensor) -> Tensor:
    """`image` (1, 3, H, W), each colour of it with the distribution of values that it has in `sample`.

    The k-th smallest value becomes that at the same quantile of the sample, interpolated.
    """
    wanted = sample.flatten(2).sort(dim=2).values[0]
    order = image.flatten(2).argsort(dim=2, stable=True)[0]
    count, known = order.shape[1], wanted.shape[1]
    at = torch.linspace(0, known - 1, count, dtype=torch.float64, device=image.device)
    low = at.long().clamp(max=max(0, known - 2))
    share = (at - low).to(image.dtype)
    values = torch.lerp(wanted[:, low], wanted[:, (low + 1).clamp(max=known - 1)], share)
    return torch.empty_like(values).scatter_(1, order, values).reshape(image.shape)
