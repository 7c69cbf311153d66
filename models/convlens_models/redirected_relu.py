"""Gradients through ReLUs that are closed everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors
        usual = torch.where(value > 0, gradient, 0)
        # What pushes a closed unit further down is blocked in any case; of what is made small, that is > 0.
        redirected = torch.where((value <= 0) & (gradient > 0), 0, gradient)
        blocked = usual.flatten(1).abs().amax(1) == 0
        return torch.where(blocked.reshape(-1, *[1] * (value.ndim - 1)), redirected, usual)


@contextmanager
def redirected(network: nn.Module) -> Iterator[None]:
    """Within it, a ReLU that would block an image's whole gradient lets through what opens its units (lucid).

    Without it, a unit that is silent on the start picture has no gradient, and the picture stays noise. Holds
    for gradients of what is to become small.
    """

    with relus_as(network, _Relu.apply):
        yield


@contextmanager
def relus_as(network: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it, every ReLU module is this function."""

    def replace(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        return function(inputs[0])

    handles = [part.register_forward_hook(replace) for part in network.modules() if isinstance(part, nn.ReLU)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
