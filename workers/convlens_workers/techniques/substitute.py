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
from convlens_workers.jobs.techniques.substitute import ASKED_AT_ONCE, BATCH, address_of
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import query_set
from convlens_workers.techniques.parts.attacks import stacked
from convlens_workers.techniques.parts.loop import Losses, optimise
from convlens_workers.techniques.parts.optimisers import MEMORY, VARIABLE
from convlens_workers.techniques.parts.query_set import AGREEMENT, ANSWERS, QuerySet
from convlens_workers.techniques.parts.substitute_model import SubstituteModel
from convlens_workers.techniques.parts.variations import lit, placed
from convlens_workers.victims import Victim, opened

Params = adversarial_pb2.Substitute
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

    The state holds no pictures: they are made anew from the copies in it.

    Returns:
        "adversarial" (N, 3, H, W), as the victim saw them; "weights.safetensors", uint8; report "substitute".

    Raises:
        FailedPrecondition: the victim refuses.
        Unavailable: the victim is away.
    """
    address = address_of(task.params.victim, task.host.victims)
    seeds, held_out = stacked(task, "images"), stacked(task, "held_out")
    model = SubstituteModel(len(task.manifest.labels), task.device)
    with opened(address, task.manifest) as victim:
        queries = QuerySet(task.params, query_set.pixels(seeds), query_set.pixels(held_out), model, task.seed)
        stages: list[Asking | Training] = [Asking(victim, queries, 0)]
        for number in range(task.params.rounds + 1):
            stages += [Training(queries, number, task.params.epochs), Asking(victim, queries, number + 1)]
        stages.append(Asking(victim, queries, len(queries.counts) - 1))
        held = yield from optimise(stages, state, task.seed, task.device)
    weights = {name: value.cpu().contiguous() for name, value in model.weights(held).items()}
    return {
        "adversarial": query_set.fooled(queries, held),
        "weights.safetensors": torch.frombuffer(bytearray(save(weights)), dtype=torch.uint8),
        "substitute": queries.report(held),
    }


@dataclass(frozen=True)
class Asking:
    """The questions of a round, some at each step; after the last round, those of attack and noise."""

    victim: Victim
    queries: QuerySet
    number: int

    @property
    def steps(self) -> int:
        """Batches of pictures that are asked about."""
        return math.ceil(self.queries.counts[self.number] / ASKED_AT_ONCE)

    def start(self, last: State, _rng: torch.Generator) -> State:
        """No answers yet; and the copy as it is, from which the questions follow."""
        if not last:
            return self.queries.begin()
        return settled(last) | self.queries.kept(last, self.number)

    def advance(self, held: State, _rng: torch.Generator) -> tuple[State, Losses]:
        """Asks about some pictures, or looks up what was answered before."""
        answered = len(held[ANSWERS])
        end = min(answered + ASKED_AT_ONCE, self.queries.end(self.number))
        images, first = self.queries.upto(end, held)
        new = [row for row in range(answered, end) if first[row] == row]
        answers = held[ANSWERS].new_zeros(end - answered, held[ANSWERS].shape[1])
        if new:
            given = self.victim.ask(images[new].permute(0, 2, 3, 1).numpy())
            answers[[row - answered for row in new]] = torch.from_numpy(given).to(answers)
        table = torch.cat([held[ANSWERS], answers])
        table[answered:] = table[first[answered:end]]
        return held | {ANSWERS: table}, {"asked": torch.tensor(float(end))}

    def picture(self, held: State) -> Tensor:
        """The picture that was asked about last."""
        images, _ = self.queries.upto(len(held[ANSWERS]), held)
        return images[-1:] / 255


@dataclass(frozen=True)
class Training:
    """Passes over all that was answered, with a rate that falls to zero as a cosine."""

    queries: QuerySet
    number: int
    epochs: int

    @property
    def steps(self) -> int:
        """Mini-batches of all epochs."""
        return self.epochs * self._batches

    @property
    def _batches(self) -> int:
        return math.ceil(self.queries.learnt(self.number) / BATCH)

    def start(self, last: State, _rng: torch.Generator) -> State:
        """The copy as it is; Adam begins anew."""
        return settled(last) | {DONE: torch.tensor(0)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """One mini-batch; after the last, what share of the held-out pictures both call the same."""
        done, batches = int(held[DONE]), self._batches
        count = self.queries.learnt(self.number)
        order = held[ORDER] if done % batches else torch.randperm(count, generator=rng)
        rows = order.cpu().tensor_split(batches)[done % batches] + len(self.queries.held_out)
        images, _ = self.queries.upto(self.queries.end(self.number), held)
        seen = lit(placed(images[rows].to(held[VARIABLE]) / 255, rng, 15, 0.1, 0.1), rng, 0.05)
        rate = RATE * (1 + math.cos(math.pi * done / self.steps)) / 2
        taught, loss = self.queries.model.taught(held, seen, held[ANSWERS][rows.to(seen.device)], rate)
        after = held | taught | {ORDER: order, DONE: torch.tensor(done + 1)}
        if done + 1 == self.steps:
            after[AGREEMENT] = torch.cat([held[AGREEMENT], self.queries.agreement(after)[None]])
        return after, {"cross_entropy": loss}

    def picture(self, held: State) -> Tensor:
        """The newest of the pictures."""
        images, _ = self.queries.upto(self.queries.end(self.number), held)
        return images[-1:] / 255


def settled(held: State) -> State:
    """`held` without the memory of Adam."""
    return {name: value for name, value in held.items() if not name.startswith(MEMORY)}
