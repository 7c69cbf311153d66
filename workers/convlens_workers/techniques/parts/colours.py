"""Gives a picture the colours, or the luminance, of another one."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

LUMINANCE: Final = (0.299, 0.587, 0.114)


def luminance(image: Tensor) -> Tensor:
    """Y of YIQ (N, 1, H, W) of pictures (N, 3, H, W)."""
    return torch.einsum("c,nchw->nhw", torch.tensor(LUMINANCE).to(image), image)[:, None]


def with_luminance(image: Tensor, wanted: Tensor) -> Tensor:
    """`image` in its own colours, as light and dark as `wanted` is."""
    return (image + luminance(wanted) - luminance(image)).clamp(0, 1)


def change_in_grey(image: Tensor, start: Tensor) -> Tensor:
    """`start` plus one change for all colours of a pixel: the largest of what `image` has over it.

    Of a picture that was clamped after such a change it undoes the clamping: the colours are the start's.
    """
    change = image - start
    most, least = change.amax(1, keepdim=True), change.amin(1, keepdim=True)
    return start + torch.where(most > -least, most, least)


def match_covariance(image: Tensor, sample: Tensor, mask: Tensor | None = None) -> Tensor:
    """`image` with the mean and covariance of the colours of `sample` (Gatys et al. 2017), not clamped.

    Where there is a `mask` (1, 1, H, W) of the image, that much of each pixel has them.
    """
    ours, theirs = _statistics(image, mask), _statistics(sample)
    change = _power(theirs[1], 0.5) @ _power(ours[1], -0.5)
    flat = change @ (image.flatten(2)[0].double() - ours[0]) + theirs[0]
    return flat.to(image.dtype).reshape(image.shape)


def _statistics(image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    flat = image.flatten(2)[0].double()
    weights = None if mask is None else mask.flatten().double()
    centre = flat.mean(1) if weights is None else flat @ weights / weights.sum()
    return centre[:, None], flat.cov(correction=0, aweights=weights) + 1e-6 * torch.eye(3).to(flat)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    powered: Tensor = vectors * values**exponent @ vectors.mT
    return powered


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
