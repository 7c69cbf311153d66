"""The substitute-model attack (Papernot et al., ASIA CCS 2017, arXiv:1602.02697)."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

import torch
from safetensors.torch import save
from torch import Tensor

from convlens.v1 import adversarial_pb2
from convlens_workers.jobs.victims import address_of
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts.attacks import stacked
from convlens_workers.techniques.parts.loop import Losses, optimise
from convlens_workers.techniques.parts.optimisers import MEMORY, VARIABLE
from convlens_workers.techniques.parts.query_set import (
    AGREEMENT,
    ANSWERS,
    ASKED_AT_ONCE,
    QuerySet,
    fooled,
    pixels,
)
from convlens_workers.techniques.parts.substitute_model import SubstituteModel
from convlens_workers.techniques.parts.variations import lit, placed
from convlens_workers.victims import Victim, opened

Params = adversarial_pb2.Substitute
BATCH: Final = 64
RATE: Final = 3e-3
DONE, ORDER = "done", "order"


def substitute(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """A copy of the victim from its answers alone: ask, train, ask about more, train on; and attacks on it.

    The first questions are the seeds. Each round adds as many as there are, up to the budget: a seed in
    another place, light and colours, moved by up to `step_size` along the sign of the gradient of the copy's
    own class (Papernot's Jacobian augmentation). It departs from the paper in that the copy learns the
    victim's probabilities, which Classify gives, and in the variations, without which it hears little that is
    new: with few seeds the gradient's moves alone say next to nothing about other pictures. All pictures are
    asked about as 8 bit files; what was asked once is not asked again.

    At the end the held-out pictures are attacked on the copy, by ten steps of BIM from what the victim
    calls them, and shown to the victim beside noise of random signs with the same L2 length.

    Args:
        task: `images["images[i]"]`, the seeds, and `images["held_out[i]"]`, all of one size.
        state: of the last step, to go on from; questions and pictures are made anew from the copies in it.

    Returns:
        "adversarial" (N, 3, H, W), as the victim saw them; "weights.safetensors", uint8; report "substitute".

    Raises:
        InvalidArgument: a victim that the operator has not allowed, or pictures of different sizes.
        FailedPrecondition: the victim refuses.
        Unavailable: the victim is away.
    """
    address = address_of(task.params.victim, task.host.victims)
    seeds, held_out = stacked(task, "substitute.images"), stacked(task, "substitute.held_out")
    pupil = SubstituteModel(len(task.manifest.labels), task.device)
    with opened(address, task.manifest) as victim:
        questions = QuerySet(task.params, pixels(seeds), pixels(held_out), pupil, task.seed)
        stages: list[Asking | Training] = [Asking(victim, questions, 0)]
        for number in range(task.params.rounds + 1):
            stages += [Training(questions, number, task.params.epochs), Asking(victim, questions, number + 1)]
        stages.append(Asking(victim, questions, len(questions.counts) - 1))
        held = yield from optimise(stages, state, task.seed, task.device)
    weights = {name: value.cpu().contiguous() for name, value in pupil.weights(held).items()}
    return {
        "adversarial": fooled(questions, held),
        "weights.safetensors": torch.frombuffer(bytearray(save(weights)), dtype=torch.uint8),
        "substitute": questions.report(held),
    }


@dataclass(frozen=True)
class Asking:
    """The questions of a round, some at each step; after the last round, those of attack and noise."""

    victim: Victim
    questions: QuerySet
    number: int

    @property
    def steps(self) -> int:
        """How many."""
        return math.ceil(self.questions.counts[self.number] / ASKED_AT_ONCE)

    def start(self, last: State, _rng: torch.Generator) -> State:
        """Without answers; with the copy as it is, from which the questions follow."""
        if not last:
            return self.questions.begin()
        return settled(last) | self.questions.kept(last, self.number)

    def advance(self, held: State, _rng: torch.Generator) -> tuple[State, Losses]:
        """Asks about some pictures, or looks up what was answered before."""
        answered = len(held[ANSWERS])
        end = min(answered + ASKED_AT_ONCE, self.questions.end(self.number))
        images, first = self.questions.upto(end, held)
        new = [row for row in range(answered, end) if first[row] == row]
        answers = held[ANSWERS].new_zeros(end - answered, held[ANSWERS].shape[1])
        if new:
            found = self.victim.ask(images[new].permute(0, 2, 3, 1).numpy())
            answers[[row - answered for row in new]] = torch.from_numpy(found).to(answers)
        table = torch.cat([held[ANSWERS], answers])
        table[answered:] = table[first[answered:end]]
        return held | {ANSWERS: table}, {"asked": torch.tensor(float(end))}

    def picture(self, held: State) -> Tensor:
        """The picture that was asked about last."""
        images, _ = self.questions.upto(len(held[ANSWERS]), held)
        return images[-1:] / 255


@dataclass(frozen=True)
class Training:
    """Passes over all that was answered, with a rate that falls to zero as a cosine."""

    questions: QuerySet
    number: int
    epochs: int

    @property
    def steps(self) -> int:
        """How many: mini-batches."""
        return self.epochs * self._batches

    @property
    def _batches(self) -> int:
        return math.ceil(self.questions.learnt(self.number) / BATCH)

    def start(self, last: State, _rng: torch.Generator) -> State:
        """As it is; Adam begins anew."""
        return settled(last) | {DONE: torch.tensor(0)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """One mini-batch; after the last, what share of the held-out pictures both call the same."""
        done, batches = int(held[DONE]), self._batches
        order = (
            held[ORDER]
            if done % batches
            else torch.randperm(self.questions.learnt(self.number), generator=rng)
        )
        rows = order.cpu().tensor_split(batches)[done % batches] + len(self.questions.held_out)
        images, _ = self.questions.upto(self.questions.end(self.number), held)
        seen = lit(placed(images[rows].to(held[VARIABLE]) / 255, rng, 15, 0.1, 0.1), rng, 0.05)
        rate = RATE * (1 + math.cos(math.pi * done / self.steps)) / 2
        taught, loss = self.questions.model.taught(held, seen, held[ANSWERS][rows.to(seen.device)], rate)
        after = held | taught | {ORDER: order, DONE: torch.tensor(done + 1)}
        if done + 1 == self.steps:
            after[AGREEMENT] = torch.cat([held[AGREEMENT], self.questions.agreement(after)[None]])
        return after, {"cross_entropy": loss}

    def picture(self, held: State) -> Tensor:
        """The newest of the pictures."""
        images, _ = self.questions.upto(self.questions.end(self.number), held)
        return images[-1:] / 255


def settled(held: State) -> State:
    """`held` without the memory of Adam."""
    return {name: value for name, value in held.items() if not name.startswith(MEMORY)}
