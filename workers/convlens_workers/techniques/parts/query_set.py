"""The query set of a substitute attack: the pictures that it asks its victim about, and the answers.

Pictures are rows of one table, 8 bit: the held-out ones, the seeds, the queries of each round, and last the
attacked held-out ones and the noisy ones. They follow from the task and from the substitute model as it was
before each round, so that a checkpoint needs to hold those models and the answers, but no pictures.
"""

from __future__ import annotations

import hashlib
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import adversarial_pb2, attack_pb2
from convlens_models.log_softmax import log_softmax
from convlens_models.measures.seeds import folded
from convlens_workers.jobs.techniques.substitute import ASKED_AT_ONCE, BIM_STEPS, row_counts
from convlens_workers.techniques.base import State
from convlens_workers.techniques.parts.animation import eight_bit
from convlens_workers.techniques.parts.attacks import cross_entropy, gradients, groups
from convlens_workers.techniques.parts.balls import BALLS, length, moved
from convlens_workers.techniques.parts.loop import generator
from convlens_workers.techniques.parts.optimisers import VARIABLE
from convlens_workers.techniques.parts.substitute_model import AVERAGES, SubstituteModel
from convlens_workers.techniques.parts.variations import lit, placed, recoloured

ANSWERS: Final = "answers"
"""Probabilities (rows, classes) of the rows that were asked about."""
AGREEMENT: Final = "agreement"
SCALINGS: Final = 8
SPREAD: Final = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: its multiples lie far apart."""


class QuerySet:
    """The table of pictures; `begin` and `kept` give what the state of the loop holds for it.

    Args:
        seeds, held_out: uint8 (N, 3, H, W) on the CPU.
    """

    def __init__(
        self,
        params: adversarial_pb2.Substitute,
        seeds: Tensor,
        held_out: Tensor,
        model: SubstituteModel,
        seed: int,
    ) -> None:
        self.held_out, self.model = held_out, model
        self._params, self._seeds, self._seed = params, seeds[: params.queries], seed
        self.counts = row_counts(params)
        self._images = torch.empty(sum(self.counts), *held_out.shape[1:], dtype=torch.uint8)
        self._seen: dict[bytes, int] = {}
        self._first: list[int] = []
        self._add(torch.cat([held_out, self._seeds]))

    def end(self, number: int) -> int:
        """The number of rows up to a round, that included."""
        return sum(self.counts[: number + 1])

    def learnt(self, number: int) -> int:
        """The number of rows that the model learns from in a round."""
        return self.end(number) - len(self.held_out)

    def begin(self) -> State:
        """The state before the first query: no answers, and an untrained model."""
        empty = torch.empty(0, self.model.classes, device=self.model.device)
        return self.model.untrained(self._seed) | {ANSWERS: empty, AGREEMENT: empty[:, 0]}

    def kept(self, held: State, number: int) -> State:
        """The model as it is before a round, under other names."""
        return {f"{name}.{number}": held[name] for name in (VARIABLE, AVERAGES)}

    def upto(self, rows: int, held: State) -> tuple[Tensor, Tensor]:
        """The first rows, and for each the first one with the same picture; they are made some at a time."""
        while (made := len(self._first)) < rows:
            number = next(number for number in range(len(self.counts)) if made < self.end(number))
            start, end = self.end(number - 1), min(made + ASKED_AT_ONCE, self.end(number))
            self._add(self._made(number, slice(made - start, end - start), held))
        return self._images[:rows], torch.tensor(self._first[:rows])

    def agreement(self, held: State) -> Tensor:
        """Share of the held-out pictures that the model and the victim classify alike."""
        return (self._classified(held, self.held_out) == self._truth(held)).float().mean()

    def report(self, held: State) -> adversarial_pb2.SubstituteReport:
        """All that was measured, once everything is answered."""
        images, first = self.upto(len(self._images), held)
        count, truth = len(self.held_out), self._truth(held)
        answered = held[ANSWERS].argmax(1)
        asked = first == torch.arange(len(first))
        training = asked[count : -2 * count].sum()
        attacked, noisy = answered[-2 * count : -count], answered[-count:]
        return adversarial_pb2.SubstituteReport(
            agreement=held[AGREEMENT].tolist(),
            queries=int(training),
            measuring_queries=int(asked.sum() - training),
            transfer=_share(attacked != truth),
            noise_transfer=_share(noisy != truth),
            white_box=_share(self._classified(held, images[-2 * count : -count]) != truth),
        )

    def _truth(self, held: State) -> Tensor:
        """The victim's classes of the held-out pictures, (N)."""
        return held[ANSWERS][: len(self.held_out)].argmax(1)

    def _classified(self, held: State, images: Tensor) -> Tensor:
        """The model's classes of pictures, (N)."""
        with torch.no_grad():
            scores = [self.model.logits(held, self._floats(images[part])) for part in groups(images)]
        return torch.cat(scores).argmax(1)

    def _made(self, number: int, which: slice, held: State) -> Tensor:
        """New rows of a round, from the model as it was before it."""
        rng = self._rng(self.end(number - 1) + which.start)
        if number == len(self.counts) - 1:
            return self._noisy(which, self._images[self.end(number - 2) :][which], rng)
        before = {name: held[f"{name}.{number}"] for name in (VARIABLE, AVERAGES)}
        if number == len(self.counts) - 2:
            return self._attacked(which, before, self._truth(held)[which])
        order = torch.randperm(len(self._seeds), generator=self._rng(-number))
        rows = torch.arange(which.start, which.stop) % len(self._seeds)
        return self._grown(self._seeds[order[rows]], before, rng)

    def _grown(self, seeds: Tensor, weights: State, rng: torch.Generator) -> Tensor:
        """Seeds in other places, lights and colours, moved along the sign of the model's gradient."""
        images = placed(self._floats(seeds), rng, 30, 0.25, 0.15)
        images = lit(recoloured(images, rng), rng, 0.15)
        distance = self._params.step_size * torch.rand(len(seeds), 1, 1, 1, generator=rng).to(images)
        return pixels(images + distance * self._gradient(weights, images, None).sign())

    def _gradient(self, weights: State, images: Tensor, classes: Tensor | None) -> Tensor:
        """The gradient of the model's largest score; with `classes`, of the cross entropy to them."""

        def loss(some: Tensor, which: slice) -> Tensor:
            scores = self.model.logits(weights, some)
            if classes is None:
                return scores.amax(1)
            return cross_entropy(log_softmax(scores), classes[which])

        return gradients(images, loss)[1]

    def _attacked(self, which: slice, weights: State, truth: Tensor) -> Tensor:
        """Held-out pictures by BIM on the model, away from the victim's classes of them."""
        original = self._floats(self.held_out[which])
        epsilon = int(255 * self._params.epsilon + 1e-4) / 255  # So that 8 bits keep within epsilon.
        images = original
        for _ in range(BIM_STEPS):
            step = images + epsilon / 4 * self._gradient(weights, images, truth).sign()
            images = moved(original, step, BALLS[attack_pb2.NORM_LINF], epsilon)
        return pixels(images)

    def _noisy(self, which: slice, attacked: Tensor, rng: torch.Generator) -> Tensor:
        """Held-out pictures with noise of the Euclidean length of the attack."""
        original = self._floats(self.held_out[which])
        return pixels(as_noisy(original, length(self._floats(attacked) - original), rng))

    def _add(self, images: Tensor) -> None:
        made = len(self._first)
        self._images[made : made + len(images)] = images
        for row, image in enumerate(images, start=made):
            self._first.append(self._seen.setdefault(hashlib.sha256(image.numpy().tobytes()).digest(), row))

    def _rng(self, row: int) -> torch.Generator:
        """A generator for rows from `row` on."""
        return generator((folded(self._seed) + SPREAD * (row + 1)) % (1 << 32))

    def _floats(self, images: Tensor) -> Tensor:
        return images.to(self.model.device) / 255


def fooled(queries: QuerySet, held: State) -> Tensor:
    """The attacked held-out pictures in [0, 1]."""
    count = len(queries.held_out)
    images, _ = queries.upto(sum(queries.counts), held)
    return images[-2 * count : -count] / 255


def pixels(images: Tensor) -> Tensor:
    """Images in [0, 1] as 8 bit ones, on the CPU."""
    return eight_bit(images.clamp(0, 1)).cpu()


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


def _share(hits: Tensor) -> float:
    return float(hits.float().mean())
