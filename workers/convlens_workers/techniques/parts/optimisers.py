"""PyTorch's optimisers, whose memory is held in the state of the loop instead of in an object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from convlens_workers.techniques.base import State
from convlens_workers.techniques.parts.loop import Losses

VARIABLE: Final = "x"
MEMORY: Final = "optimiser."
SCRATCH: Final = ("al",)
"""What L-BFGS fills anew in each step."""
HISTORY: Final = 20
BEST, LEAST, GROWTH = "best", "least", 2.0
"""The variable where the loss was least, that loss, and the growth over it after which to start anew."""
Evaluate = Callable[[Tensor], tuple[Tensor, Losses]]
"""Gives the objective to minimise at x, and its terms."""


@dataclass(frozen=True)
class Optimiser:
    """An optimiser of `torch.optim` that starts each step from a state, and gives a new one.

    A guarded one goes back to the best point where a step has made the loss grow too much.

    >>> minimise = adam(0.1)
    >>> held, losses = minimise.step({"x": torch.ones(2)}, lambda x: ((x * x).sum(), {"square": x @ x}))
    >>> held["x"]
    tensor([0.9000, 0.9000])
    """

    make: Callable[[Iterable[Tensor]], torch.optim.Optimizer]
    guarded: bool = False

    def step(self, held: State, evaluate: Evaluate) -> tuple[State, Losses]:
        """The state after one iteration on `held["x"]`, and the terms of the objective before it."""
        x = held[VARIABLE].clone().requires_grad_()
        optimiser = self.make([x])
        memory = {name.removeprefix(MEMORY): value for name, value in held.items() if name.startswith(MEMORY)}
        if memory:
            optimiser.state[x] = _unpack(memory)
        losses: Losses = {}
        loss = torch.zeros(())

        def closure() -> float:
            nonlocal loss, losses
            with torch.enable_grad():
                loss, losses = evaluate(x)
                (x.grad,) = torch.autograd.grad(loss, x)
            return float(loss.detach())

        optimiser.step(closure)
        after = {MEMORY + name: value for name, value in _pack(optimiser.state[x]).items()}
        after[VARIABLE] = x.detach()
        terms = {name: value.detach() for name, value in losses.items()}
        if not self.guarded:
            return after, terms
        least = held.get(LEAST, loss.detach())
        if not loss <= GROWTH * least:
            return {VARIABLE: held[BEST], BEST: held[BEST], LEAST: least}, terms
        better = loss <= least
        after[BEST] = held[VARIABLE] if better else held[BEST]
        after[LEAST] = loss.detach() if better else least
        return after, terms


def adam(rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> Optimiser:
    """Adam (Kingma & Ba, ICLR 2015) with learning rate `rate`."""
    return Optimiser(lambda variables: torch.optim.Adam(variables, rate, betas))


def lbfgs() -> Optimiser:
    """L-BFGS (Liu & Nocedal 1989) with the last 20 differences and unit steps, without line search.

    Where a step made the loss more than twice the least so far, it starts anew from there, without memory.
    """
    return Optimiser(
        lambda variables: torch.optim.LBFGS(
            variables, 1.0, max_iter=1, history_size=HISTORY, tolerance_grad=0, tolerance_change=0
        ),
        guarded=True,
    )


def joined(values: Iterable[Tensor]) -> Tensor:
    """All `values` in one vector, as an optimiser takes them."""
    return torch.cat([value.detach().reshape(-1) for value in values])


def separated(vector: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The parts of a vector by name, as views in these shapes, within the autograd graph."""
    pieces = torch.split(vector, [shape.numel() for shape in shapes.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def _pack(memory: dict[str, Any]) -> State:
    """Tensors only: Python's numbers become 64 bit scalars, lists an entry an item and one more."""
    packed: State = {}
    for name, value in memory.items():
        if isinstance(value, list) and name not in SCRATCH:
            packed.update({f"{name}.": torch.empty(0), **{f"{name}.{i}": v for i, v in enumerate(value)}})
        elif isinstance(value, Tensor):
            packed[name] = value
        elif isinstance(value, (int, float)):
            kind = torch.int64 if isinstance(value, int) else torch.float64
            packed[name] = torch.tensor(value, dtype=kind)
    return packed


def _unpack(packed: State) -> dict[str, Any]:
    """The reverse; what an optimiser changes in place is copied, so that the state before stays as it is."""
    memory: dict[str, Any] = {}
    for name, value in packed.items():
        key, listed, position = name.partition(".")
        if listed:
            memory.setdefault(key, []).extend([(int(position), value)] if position else [])
        elif value.ndim == 0 and value.dtype in (torch.int64, torch.float64):
            memory[key] = value.item()
        else:
            memory[key] = value.clone()
    lists = {key: dict(value) for key, value in memory.items() if isinstance(value, list)}
    return memory | {key: [items[place] for place in sorted(items)] for key, items in lists.items()}
