"""The loop of every technique that changes an image step by step.

A technique is a list of stages (an octave, a scale, a unit), each of so many steps. All that a step changes
is in `State`, a dict of tensors that nothing alters in place: a step makes a new one. So a state can be kept,
stored and gone on from, and what comes out is the same, bit for bit on the CPU.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from convlens_models.measures.seeds import folded, own_seed
from convlens_workers.techniques.base import State, Step

Losses = Mapping[str, Tensor]
STAGE, DONE = "stage", "stage.step"
"""Which stage a state is in, from 0, and how many of its steps are done."""
RANDOM = "rng"
LOSS = "loss"
"""Among the terms of an objective: their weighted sum, where it is what becomes small."""
FIRST_LOSS, LAST_LOSS = "loss.first", "loss.last"
"""That of the first step and of the latest one, in the state."""
OWN = frozenset({STAGE, DONE, RANDOM, FIRST_LOSS, LAST_LOSS})
"""What the loop keeps in the state for itself."""


class Stage(Protocol):
    """Some steps towards one goal. What it keeps between steps for itself must follow from the task alone."""

    @property
    def steps(self) -> int:
        """The number of its steps."""

    def start(self, last: State, rng: torch.Generator) -> State:
        """The state before its first step, from that at the end of the stage before (empty at the first)."""

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """One step: the state after it, and the terms of the objective before it."""

    def picture(self, held: State) -> Tensor:
        """What there is to see of a state, (1, 3, H, W) in [0, 1]."""


def optimise(
    stages: Sequence[Stage], state: State | None, seed: int, device: torch.device
) -> Generator[Step, None, State]:
    """Walk through `stages`, from `state` on if there is one; returns what the last stage held.

    With it come the losses of the first and the last step, where the stages tell of a `LOSS`. A state says
    where it is by its stage and the steps done there: stages that have become longer since are walked to
    their new end, but those before it count as done.
    """
    place, done = (0, 0) if state is None else (int(state[STAGE]), int(state[DONE]))
    rng = generator(seed, None if state is None else state[RANDOM])
    held = {name: value.to(device) for name, value in (state or {}).items() if name not in OWN}
    fallen = {name: value for name, value in (state or {}).items() if name in (FIRST_LOSS, LAST_LOSS)}
    total = sum(stage.steps for stage in stages)
    for position, stage in enumerate(stages[place:], place):
        before = sum(earlier.steps for earlier in stages[:position])
        for number in range((done if position == place else 0) + 1, stage.steps + 1):
            if number == 1:
                held = stage.start(held, rng)
            held, losses = stage.advance(held, rng)
            if LOSS in losses:
                fallen = {FIRST_LOSS: losses[LOSS], **fallen, LAST_LOSS: losses[LOSS]}
            where = {STAGE: torch.tensor(position), DONE: torch.tensor(number)}
            kept = {**held, **fallen, RANDOM: rng.get_state(), **where}
            yield Step(before + number, total, losses, stage.picture(held), kept)
    return {**held, **fallen}


def generator(seed: int, state: Tensor | None = None) -> torch.Generator:
    """A generator on the CPU, the same for every device; with `state`, it goes on where that left off."""
    rng = torch.Generator()
    rng.manual_seed(folded(seed))
    if state is not None:
        rng.set_state(state.cpu())
    return rng


def own_generator(seed: int, image: Tensor, what: str) -> torch.Generator:
    """A generator for `what` is drawn for one image: it follows from the job's seed and the pixels alone.

    So an image fares alike alone, in a batch, and at any place in it.
    """
    return generator(own_seed(seed, image.detach().cpu().contiguous().numpy().tobytes(), what))
