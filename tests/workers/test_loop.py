"""The loop of all techniques that change a picture step by step: where a state is; stages that have grown."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from support import techniques
from torch import Tensor

from convlens_workers.techniques.base import State, Step
from convlens_workers.techniques.parts.loop import Losses, optimise


@dataclass(frozen=True)
class Walk:
    """A random walk."""

    steps: int

    def start(self, last: State, rng: torch.Generator) -> State:
        return {"x": last.get("x", torch.zeros(1)) + torch.rand(1, generator=rng)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        return {"x": held["x"] + torch.rand(1, generator=rng)}, {}

    def picture(self, held: State) -> Tensor:
        return held["x"]


def walked(*lengths: int, state: State | None = None) -> tuple[list[Step], State]:
    walk = optimise([Walk(length) for length in lengths], state, 3, torch.device("cpu"))
    steps, last = techniques.run(walk)  # type: ignore[arg-type]
    return steps, last  # type: ignore[return-value]


def test_a_stage_that_has_grown_is_walked_to_its_new_end() -> None:
    whole, end = walked(5, 5)
    before, _ = walked(3, 3)
    for place in range(3):  # In the first stage, at any step.
        rest, grown = walked(5, 5, state=before[place].state)
        assert [step.number for step in rest] == list(range(place + 2, 11))
        assert torch.equal(grown["x"], end["x"])
    assert len(whole) == 10


def test_of_a_finished_walk_only_the_last_stage_grows() -> None:
    before, _ = walked(3, 3)
    rest, _ = walked(5, 5, state=before[-1].state)
    assert [(step.number, step.total) for step in rest] == [(9, 10), (10, 10)]
    _, end = walked(3, 5)
    assert torch.equal(rest[-1].image, end["x"])


def test_a_finished_walk_without_more_to_do_ends_as_it_did() -> None:
    before, end = walked(3, 3)
    rest, same = walked(3, 3, state=before[-1].state)
    assert not rest
    assert torch.equal(same["x"], end["x"])
