"""What a substitute attack asks its victim about, and what it makes of the answers.

Pictures are rows of one table, 8 bit: the held-out ones, the seeds, the questions of each round, and last
the attacked held-out ones and the noisy ones. They follow from the task and from the copy as it was before
each round, so that a checkpoint needs to hold those copies and the answers, but no pictures.
"""

from __future__ import annotations

import hashlib
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens.v1 import adversarial_pb2
from convlens_workers.techniques.base import State
from convlens_workers.techniques.parts.attacks import groups
from convlens_workers.techniques.parts.balls import length
from convlens_workers.techniques.parts.loop import generator
from convlens_workers.techniques.parts.optimisers import VARIABLE
from convlens_workers.techniques.parts.pupil import AVERAGES, Pupil
from convlens_workers.techniques.parts.variations import lit, placed, recoloured

ANSWERS: Final = "answers"
"""Probabilities (rows, classes) of the rows that were asked about."""
AGREEMENT: Final = "agreement"
STEPS: Final = 10
SCALINGS: Final = 8
ROUNDS: Final = 64
"""More than there can be."""


class Questions:
    """The table of pictures. `begin` and `kept` say what the state of the loop holds for it.

    Args:
        seeds, held_out: uint8 (N, 3, H, W) on the CPU.
    """

    def __init__(
        self,
        params: adversarial_pb2.Substitute,
        seeds: Tensor,
        held_out: Tensor,
        pupil: Pupil,
        seed: int,
    ) -> None:
        self.held_out = held_out
        self.pupil = pupil
        self._params = params
        self._seeds = seeds[: params.queries]
        self._seed = seed
        self._images = torch.cat([held_out, self._seeds])
        self._first = _first_rows(self._images)
        total = len(self._seeds)
        self.counts = [len(self._images)]
        """New rows of each round; those of the attack are the last."""
        for _ in range(params.rounds):
            self.counts.append(min(total, params.queries - total))
            total += self.counts[-1]
        self.counts.append(2 * len(held_out))

    def end(self, number: int) -> int:
        """Rows up to a round, that included."""
        return sum(self.counts[: number + 1])

    def learnt(self, number: int) -> int:
        """Rows that the copy learns from in a round."""
        return self.end(number) - len(self.held_out)

    def begin(self) -> State:
        """No answers yet, and an untrained copy."""
        untrained = self.pupil.untrained(self._seed)
        answers = torch.empty(0, self.pupil.classes, device=self.pupil.device)
        return untrained | {ANSWERS: answers, AGREEMENT: torch.empty(0, device=self.pupil.device)}

    def kept(self, held: State, number: int) -> State:
        """The copy as it is before a round, under other names."""
        return {f"{name}.{number}": held[name] for name in (VARIABLE, AVERAGES)}

    def upto(self, number: int, held: State) -> tuple[Tensor, Tensor]:
        """The rows up to a round, and for each the first row with the same picture."""
        for later in range(1, number + 1):
            if len(self._images) < self.end(later):
                copy = {name: held[f"{name}.{later}"] for name in (VARIABLE, AVERAGES)}
                new = self._attack(copy, held) if later == len(self.counts) - 1 else self._grown(copy, later)
                self._images = torch.cat([self._images, new])
                self._first = _first_rows(self._images)
        return self._images[: self.end(number)], self._first[: self.end(number)]

    def agreement(self, held: State) -> Tensor:
        """Share of the held-out pictures that the copy and the victim call the same."""
        same = self._called(held, self.held_out) == self._truth(held)
        return same.float().mean()

    def report(self, held: State) -> adversarial_pb2.SubstituteReport:
        """All that was measured, once everything is answered."""
        images, first = self.upto(len(self.counts) - 1, held)
        count, truth = len(self.held_out), self._truth(held)
        called = held[ANSWERS].argmax(1)
        asked = first == torch.arange(len(first))
        training = asked[count : self.end(len(self.counts) - 2)].sum()
        attacked, noisy = called[-2 * count : -count], called[-count:]
        return adversarial_pb2.SubstituteReport(
            agreement=held[AGREEMENT].tolist(),
            queries=int(training),
            measuring_queries=int(asked.sum() - training),
            transfer=_share(attacked != truth),
            noise_transfer=_share(noisy != truth),
            white_box=_share(self._called(held, images[-2 * count : -count]) != truth),
        )

    def _truth(self, held: State) -> Tensor:
        """What the victim calls the held-out pictures."""
        return held[ANSWERS][: len(self.held_out)].argmax(1)

    def _called(self, held: State, images: Tensor) -> Tensor:
        """What the copy calls pictures."""
        with torch.no_grad():
            scores = [self.pupil.logits(held, self._floats(images[part])) for part in groups(images)]
        return torch.cat(scores).argmax(1)

    def _grown(self, copy: State, number: int) -> Tensor:
        """Seeds in other places, lights and colours, moved along the sign of the copy's gradient."""
        rng = generator(self._seed * ROUNDS + number)
        count, seeds = self.counts[number], len(self._seeds)
        order = torch.cat([torch.randperm(seeds, generator=rng) for _ in range(-(-count // seeds))])[:count]
        grown = []
        for some in torch.split(order, 256):
            images = placed(self._floats(self._seeds[some]), rng, 30, 0.25, 0.15)
            images = lit(recoloured(images, rng), rng, 0.15)
            distance = self._params.step_size * torch.rand(len(some), 1, 1, 1, generator=rng).to(images)
            gradient = self._gradient(copy, images, None)
            grown.append(pixels(images + distance * gradient.sign()))
        return torch.cat(grown)

    def _gradient(self, copy: State, images: Tensor, classes: Tensor | None) -> Tensor:
        """Of the copy's own class's score; with `classes`, of the cross entropy to them."""
        found: list[Tensor] = []
        for part in groups(images):
            some = images[part].detach().requires_grad_()
            with torch.enable_grad():
                scores = self.pupil.logits(copy, some)
                value = (
                    scores.amax(1)
                    if classes is None
                    else F.cross_entropy(scores, classes[part], reduction="none")
                )
                found.extend(torch.autograd.grad(value.sum(), some))
        return torch.cat(found)

    def _attack(self, copy: State, held: State) -> Tensor:
        """The held-out pictures by BIM on the copy, and then with noise as long."""
        original, truth = self._floats(self.held_out), self._truth(held)
        levels = int(255 * self._params.epsilon + 1e-4)  # No more than epsilon is left of it by 8 bits.
        epsilon = levels / 255
        images = original
        for _ in range(STEPS):
            moved = images + epsilon / 4 * self._gradient(copy, images, truth).sign()
            images = (original + (moved - original).clamp(-epsilon, epsilon)).clamp(0, 1)
        attacked = pixels(images)
        rng = generator(self._seed * ROUNDS)
        noisy = as_noisy(original, length(self._floats(attacked) - original), rng)
        return torch.cat([attacked, pixels(noisy)])

    def _floats(self, images: Tensor) -> Tensor:
        return images.to(self.pupil.device) / 255


def fooled(questions: Questions, held: State) -> Tensor:
    """The attacked held-out pictures in [0, 1]."""
    images, _ = questions.upto(len(questions.counts) - 1, held)
    count = len(questions.held_out)
    return images[-2 * count : -count] / 255


def pixels(images: Tensor) -> Tensor:
    """Images in [0, 1] as 8 bit ones, on the CPU."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def as_noisy(images: Tensor, lengths: Tensor, rng: torch.Generator) -> Tensor:
    """8 bit `images` plus random signs, so strong that the change is `lengths` (N, 1, 1, 1) long.

    Each value moves by one of two neighbouring numbers of levels, since 8 bits allow nothing between.
    """
    signs = (torch.randint(2, images.shape, generator=rng) * 2 - 1).to(images)
    within = torch.rand(images.shape, generator=rng).to(images)
    strength = 255 * lengths / images[0].numel() ** 0.5
    noisy = images
    for _ in range(SCALINGS):  # What leaves [0, 1] is cut off, and made up for by the rest.
        noisy = (images + signs * (strength + within).floor() / 255).clamp(0, 1)
        strength = strength * lengths / length(noisy - images).clamp_min(1e-6)
    return noisy


def _first_rows(images: Tensor) -> Tensor:
    seen: dict[bytes, int] = {}
    digests = (hashlib.sha256(image.numpy().tobytes()).digest() for image in images)
    return torch.tensor([seen.setdefault(digest, row) for row, digest in enumerate(digests)])


def _share(hits: Tensor) -> float:
    return float(hits.float().mean())
