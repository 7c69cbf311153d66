"""Softmax and its logarithm in torch, as exact as their numbers also where one class is nearly certain.

torch computes 1 - P of such a class as a difference: nothing is left of it where P rounds to 1, neither of
log P nor of the gradients. Here it is the sum of the other probabilities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def softmax(logits: Tensor) -> Tensor:
    """Probabilities (N, classes) of logits (N, classes)."""
    return logits.softmax(1) if _traced() else _applied(_Softmax, logits)


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities (N, classes) of logits (N, classes).

    >>> scores = torch.tensor([[40.0, 0.0]], requires_grad=True)
    >>> value = log_softmax(scores)[0, 0]
    >>> value.backward()
    >>> print(f"{value.item():.3e}", [f"{slope:.3e}" for slope in scores.grad[0].tolist()])
    -4.248e-18 ['4.248e-18', '-4.248e-18']
    """
    return logits.log_softmax(1) if _traced() else _applied(_LogSoftmax, logits)


class _Softmax(torch.autograd.Function):
    """Y (h - sum(h y)), h = g - g of the likeliest class: that changes nothing but the rounding."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        found = logits.softmax(1)
        ctx.save_for_backward(found, logits.argmax(1, keepdim=True))
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        found, top = ctx.saved_tensors
        relative = gradient - gradient.gather(1, top)
        slopes: Tensor = found * (relative - (relative * found).sum(1, keepdim=True))
        return slopes


class _LogSoftmax(torch.autograd.Function):
    """Log(1 - q) for the likeliest class, q the sum of the others' probabilities.

    Backwards g - P sum(g); for the likeliest class minus the sum of that over all others, as all sum to 0.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        plain, top = logits.log_softmax(1), logits.argmax(1, keepdim=True)
        others = plain.exp().scatter(1, top, 0).sum(1, keepdim=True)
        value = torch.where(others < 0.5, torch.log1p(-others), plain.gather(1, top))
        found = plain.scatter(1, top, value)
        ctx.save_for_backward(found, top)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        found, top = ctx.saved_tensors
        slopes = gradient - found.exp() * gradient.sum(1, keepdim=True)
        others: Tensor = slopes.scatter(1, top, 0)
        return others.scatter(1, top, -others.sum(1, keepdim=True))


def _traced() -> bool:
    """Whether TorchScript is tracing: a trace cannot hold functions of ours."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _applied(function: type[torch.autograd.Function], logits: Tensor) -> Tensor:
    found: Tensor = function.apply(logits)  # type: ignore[no-untyped-call]
    return found
