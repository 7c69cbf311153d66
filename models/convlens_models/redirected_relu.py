"""Gradients through ReLUs that are closed everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

RELUS: Final = (nn.ReLU, nn.ReLU6)


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, most: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.most = most
        return value.clamp(0, most)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        usual = torch.where((value > 0) & (value < ctx.most), gradient, 0)
        # What pushes a closed unit further out is blocked in any case; of what is made small, that is > 0
        # below zero, and < 0 above the most.
        outwards = ((value <= 0) & (gradient > 0)) | ((value >= ctx.most) & (gradient < 0))
        redirected = torch.where(outwards, 0, gradient)
        blocked = usual.flatten(1).abs().amax(1) == 0
        return torch.where(blocked.reshape(-1, *[1] * (value.ndim - 1)), redirected, usual), None


@contextmanager
def redirected(network: nn.Module) -> Iterator[None]:
    """Within it, a ReLU that would block an image's whole gradient lets through what opens its units (lucid).

    Without it, a unit that is silent on the start picture has no gradient, and the picture stays noise. Holds
    for gradients of what is to become small.
    """

    with relus_as(network, _Relu.apply):
        yield


@contextmanager
def relus_as(network: nn.Module, function: Callable[[Tensor, float], Tensor]) -> Iterator[None]:
    """Within it, every ReLU module is this function of its input and of the most that it lets through."""

    def replace(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        return function(inputs[0], 6.0 if isinstance(module, nn.ReLU6) else math.inf)

    handles = [part.register_forward_hook(replace) for part in network.modules() if isinstance(part, RELUS)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
