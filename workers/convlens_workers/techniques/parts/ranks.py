"""What the processes of a distributed training share at each step; a process alone has it all to itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx


def rank() -> int:
    """The number of this process among them, counted from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """The number of processes that take each step together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean(value: Tensor) -> Tensor:
    """The mean of `value` over all processes, the same in each."""
    if count() == 1:
        return value
    together = value.detach().clone()
    dist.all_reduce(together)
    return together / count()


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: FunctionCtx, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return mean(gradient)


def shared(value: Tensor) -> Tensor:
    """`value`, the same in all processes; its gradient is the mean of what each of them finds."""
    if count() == 1:
        return value
    return _Shared.apply(value)  # type: ignore[no-any-return, no-untyped-call]
