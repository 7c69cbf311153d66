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
KNOWN_LOSS, KNOWN_GRADIENT, KNOWN_TERM = "known.loss", "known.gradient", "known.term."
"""What the last line search has found out about x, so that the next step need not."""
STUCK: Final = "stuck"
"""In a state from which no line search gets lower."""
SCRATCH: Final = ("al",)
"""What L-BFGS fills anew in each step."""
HISTORY: Final = 20
MOST_EVALUATIONS: Final = 12
"""Of one line search. The first one of a picture takes about three, most others one."""
Evaluate = Callable[[Tensor], tuple[Tensor, Losses]]
"""Gives the objective to minimise at x, and its terms."""


@dataclass(frozen=True)
class Optimiser:
    """An optimiser of `torch.optim` that starts each step from a state, and gives a new one.

    >>> minimise = adam(0.1)
    >>> held, losses = minimise.step({"x": torch.ones(2)}, lambda x: ((x * x).sum(), {"square": x @ x}))
    >>> held["x"]
    tensor([0.9000, 0.9000])
    """

    make: Callable[[Iterable[Tensor]], torch.optim.Optimizer]

    def step(self, held: State, evaluate: Evaluate) -> tuple[State, Losses]:
        """The state after one iteration on `held["x"]`, and the terms of the objective before it."""
        x = held[VARIABLE].clone().requires_grad_()
        optimiser = self.make([x])
        _recall(optimiser, x, _memory(held))
        losses: Losses = {}

        def closure() -> float:
            nonlocal losses
            point = Point.at(x, evaluate)
            x.grad, losses = point.gradient, point.losses
            return float(point.loss)

        optimiser.step(closure)
        return {VARIABLE: x.detach(), **_kept(optimiser, x)}, losses


@dataclass(frozen=True)
class Point:
    """What is known at `x`: the loss, its gradient, and its terms."""

    x: Tensor
    loss: Tensor
    gradient: Tensor
    losses: Losses

    @classmethod
    def at(cls, x: Tensor, evaluate: Evaluate) -> Point:
        """By evaluating it."""
        here = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            loss, losses = evaluate(here)
            (gradient,) = torch.autograd.grad(loss, here)
        terms = {name: value.detach() for name, value in losses.items()}
        return cls(here.detach(), loss.detach(), gradient, terms)

    @classmethod
    def of(cls, held: State) -> Point | None:
        """From a state, where it is there."""
        if KNOWN_LOSS not in held:
            return None
        losses = {name.removeprefix(KNOWN_TERM): v for name, v in held.items() if name.startswith(KNOWN_TERM)}
        return cls(held[VARIABLE], held[KNOWN_LOSS], held[KNOWN_GRADIENT], losses)

    def state(self) -> State:
        """As `of` takes it."""
        terms = {KNOWN_TERM + name: value for name, value in self.losses.items()}
        return {VARIABLE: self.x, KNOWN_LOSS: self.loss, KNOWN_GRADIENT: self.gradient, **terms}

    def below(self, other: Point) -> bool:
        """Whether the loss is less; never where it is not a number."""
        return bool(self.loss < other.loss)


class LineSearch(Optimiser):
    """An optimiser of `torch.optim` with a line search, which calls its closure first at x, then elsewhere.

    The loss falls with every step. Where it does not, the memory is dropped and the line search is made
    along the gradient; where it does not even so, x stays as it is, and all later steps leave it alone.
    """

    def step(self, held: State, evaluate: Evaluate) -> tuple[State, Losses]:
        """One iteration on `held["x"]`, of at most twice `MOST_EVALUATIONS`."""
        here = Point.of(held) or Point.at(held[VARIABLE], evaluate)
        if STUCK in held:
            return held, here.losses
        memory = _memory(held)
        lower = self._lower(here, memory, evaluate)
        if lower is None and memory:
            lower = self._lower(here, {}, evaluate)
        return lower or {**here.state(), STUCK: torch.tensor(1)}, here.losses

    def _lower(self, here: Point, memory: State, evaluate: Evaluate) -> State | None:
        """The state after a line search, if the loss is less there."""
        x = here.x.clone().requires_grad_()
        optimiser = self.make([x])
        _recall(optimiser, x, memory)
        best = last = here
        asked = False

        def closure() -> float:
            nonlocal best, last, asked
            if asked:
                last = Point.at(x, evaluate)
                best = last if last.below(best) else best
            asked = True
            x.grad = last.gradient
            return float(last.loss.nan_to_num(nan=torch.inf))

        optimiser.step(closure)
        known = (point for point in (last, best) if torch.equal(point.x, x))
        end = next(known, None) or Point.at(x, evaluate)
        return {**end.state(), **_kept(optimiser, x)} if end.below(here) else None


def adam(rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> Optimiser:
    """Adam (Kingma & Ba, ICLR 2015) with learning rate `rate`."""
    return Optimiser(lambda variables: torch.optim.Adam(variables, rate, betas))


def lbfgs() -> Optimiser:
    """L-BFGS (Liu & Nocedal 1989) with the last 20 differences and a line search for strong Wolfe conditions.

    Unit steps alone fail on large pictures: the first, of length 1 / |g|_1, tells of almost no curvature, and
    the second goes far too far.
    """
    return LineSearch(
        lambda variables: torch.optim.LBFGS(
            variables,
            1.0,
            max_iter=1,
            max_eval=MOST_EVALUATIONS,
            history_size=HISTORY,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )
    )


def joined(values: Iterable[Tensor]) -> Tensor:
    """All `values` in one vector, as an optimiser takes them."""
    return torch.cat([value.detach().reshape(-1) for value in values])


def separated(vector: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The parts of a vector by name, as views in these shapes, within the autograd graph."""
    pieces = torch.split(vector, [shape.numel() for shape in shapes.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def _memory(held: State) -> State:
    return {name.removeprefix(MEMORY): value for name, value in held.items() if name.startswith(MEMORY)}


def _recall(optimiser: torch.optim.Optimizer, x: Tensor, memory: State) -> None:
    if memory:
        optimiser.state[x] = _unpack(memory)


def _kept(optimiser: torch.optim.Optimizer, x: Tensor) -> State:
    return {MEMORY + name: value for name, value in _pack(optimiser.state[x]).items()}


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
