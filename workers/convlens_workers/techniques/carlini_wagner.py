"""The smallest change in L2, by Adam on a margin of logits (Carlini & Wagner 2017, arXiv:1608.04644)."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import adversarial_pb2
from convlens_models.manifest import Manifest
from convlens_models.measures.certificate import AttackGoal
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import attacks
from convlens_workers.techniques.parts.loop import Losses, optimise
from convlens_workers.techniques.parts.optimisers import VARIABLE, adam

Params = adversarial_pb2.CarliniWagner
TENFOLD: Final = 10.0
INSIDE: Final = 0.999999
"""What -1 .. 1 is shrunk by, so that black and white have a finite place in tanh space."""
EDGE: Final = 1e-4
"""Margin of logits by which a goal must be met, so that rounding in another batch does not undo it."""
CHECKS: Final = 10
"""How often in a search its loss is looked at."""
PROGRESS: Final = 0.9999
"""A search goes on while its loss falls below this share of that at the check before."""


def carlini_wagner(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """min |x' - x|^2 + c max(0, margin + confidence) over w, where x' = (tanh(w) + 1) / 2.

    The margin is what the largest other logit has over the target's; without targets, the label's over the
    largest other one's; where classes are independent, 0 takes the place of the others. Each search takes all
    steps from the image on; then c of each image grows tenfold, or halves its interval. As in Foolbox, except
    that every image stops alone when its loss stops falling.

    Returns:
        "original", "adversarial" (N, 3, H, W), each the nearest that met its goal by the confidence, or the
        original where none did; "perturbation", their difference x 10 about grey; report "attack".
    """
    params = task.params
    original = attacks.stacked(task, "images")
    classify = attacks.classifier(task.network)
    goal = choose_goal(params, classify, original, task.manifest)
    scores = attacks.scores(task.network, task.manifest)
    stages = [Search(scores, original, goal, params, params.steps)] * params.searches
    held = yield from optimise(stages, state, task.seed, task.device)
    return attacks.smallest_changes(classify, task.manifest, original, held, goal)


def choose_goal(
    params: Params, classify: attacks.Classifier, original: Tensor, manifest: Manifest
) -> AttackGoal:
    """Towards the targets; else away from the labels, or from what the network predicts."""
    count = len(original)
    if params.targets:
        return attacks.targeted(attacks.class_indices(params.targets, count), manifest)
    if params.labels:
        return attacks.untargeted(attacks.class_indices(params.labels, count), manifest)
    return attacks.untargeted(attacks.predicted(classify, original), manifest)


@dataclass(frozen=True)
class Search:
    """The steps with one c for each image: a stage of the loop.

    In its state, for each image: `x`, the change of w; `met`, whether the goal was in this search; `running`;
    `checked`, the loss at the last check; `constant`, c; `low` and `high`, the largest c that failed and the
    smallest that met; `adversarial` and `l2`, the nearest yet; `queries`. Adam's memory; `tick`, steps taken.
    """

    scores: attacks.Classifier
    original: Tensor
    goal: AttackGoal
    params: Params
    steps: int

    def start(self, last: State, _rng: torch.Generator) -> State:
        """At the images, with the next c."""
        count, device = len(self.original), self.original.device
        best = {name: last[name] for name in ("adversarial", "l2", "queries") if last} or {
            "adversarial": self.original,
            "l2": torch.full((count,), math.inf, device=device),
            "queries": torch.zeros(count, dtype=torch.int64, device=device),
        }
        first = torch.full((count,), self.params.initial_constant, device=device)
        widest = {"low": torch.zeros_like(first), "high": torch.full_like(first, math.inf), "constant": first}
        bounds = narrowed(last) if last else widest
        return {
            **best,
            **bounds,
            VARIABLE: torch.zeros_like(self.original),
            "met": torch.zeros(count, dtype=torch.bool, device=device),
            "running": torch.ones(count, dtype=torch.bool, device=device),
            "checked": torch.full((count,), math.inf, device=device),
            "tick": torch.tensor(0),
        }

    def advance(self, held: State, _rng: torch.Generator) -> tuple[State, Losses]:
        """A step of Adam for the images that still run, and what was met before it."""
        where = held["running"].nonzero()[:, 0]
        new = {**held, "tick": held["tick"] + 1}
        if len(where):
            new |= self.evaluated(held, where)
        near = new["l2"].isfinite()
        l2 = new["l2"][near].mean() if near.any() else torch.zeros(())
        return new, {"met": near.float().mean(), "l2": l2, "running": held["running"].float().mean()}

    def evaluated(self, held: State, where: Tensor) -> State:
        """What a step changes, for the images at `where`."""
        begin, constant = to_tanh(self.original[where]), held["constant"][where]
        reached, margins = [], []

        def loss(change: Tensor, part: slice) -> Tensor:
            image, zero = to_pixels(begin[part] + change), to_pixels(begin[part])
            margin = self.margin(self.scores(image), where[part])
            reached.append(image.detach())
            margins.append(margin.detach())
            return constant[part] * margin.clamp_min(0) + (image - zero).square().sum((1, 2, 3))

        values, slopes = attacks.gradients(held[VARIABLE][where], loss)
        gradient = torch.zeros_like(held[VARIABLE]).index_copy(0, where, slopes)
        new, _ = adam(self.params.learning_rate).step(held, lambda x: ((x * gradient).sum(), {}))
        nearest = self.nearest(held, where, torch.cat(reached), torch.cat(margins))
        return new | nearest | self.checked(held, where, values)

    def margin(self, scores: Tensor, where: Tensor) -> Tensor:
        """By how much each image still misses its goal in logits, the confidence included, (n).

        An independent class has no others: its logit is 0 where its probability is one half.
        """
        classes = torch.tensor(self.goal.classes, device=where.device)[where, None]
        own = scores.gather(1, classes)[:, 0]
        other = (
            torch.zeros_like(own) if self.goal.independent else scores.scatter(1, classes, -math.inf).amax(1)
        )
        return (other - own if self.goal.targeted else own - other) + self.params.confidence

    def nearest(self, held: State, where: Tensor, images: Tensor, margins: Tensor) -> State:
        """`met`, and what is nearest of all that met its goal."""
        met = margins < -EDGE
        l2 = torch.linalg.vector_norm((images - self.original[where]).flatten(1), dim=1)
        closer = met & (l2 < held["l2"][where])
        better = where[closer]
        return {
            "met": held["met"].index_put((where,), held["met"][where] | met),
            "l2": held["l2"].index_put((better,), l2[closer]),
            "adversarial": held["adversarial"].index_put((better,), images[closer])
            if len(better)
            else held["adversarial"],
            "queries": held["queries"].index_add(0, where, torch.ones_like(where)),
        }

    def checked(self, held: State, where: Tensor, losses: Tensor) -> State:
        """At each tenth of the steps: which images go on, as their loss still falls."""
        if self.params.no_early_stop or int(held["tick"]) % math.ceil(self.steps / CHECKS):
            return {}
        falls = losses <= PROGRESS * held["checked"][where]
        return {
            "running": held["running"].index_put((where,), falls),
            "checked": held["checked"].index_put((where,), losses),
        }

    def picture(self, held: State) -> Tensor:
        """The first image under attack."""
        return to_pixels(to_tanh(self.original[:1]) + held[VARIABLE][:1])


def narrowed(held: State) -> State:
    """The bounds of c after a search, and the c of the next."""
    low = torch.where(held["met"], held["low"], held["constant"])
    high = torch.where(held["met"], held["constant"], held["high"])
    grown = TENFOLD * held["constant"]
    return {"low": low, "high": high, "constant": torch.where(high.isinf(), grown, (low + high) / 2)}


def to_tanh(images: Tensor) -> Tensor:
    """Pixels in [0, 1] to the whole line."""
    return ((2 * images - 1) * INSIDE).atanh()


def to_pixels(values: Tensor) -> Tensor:
    """The whole line to pixels in [0, 1]."""
    return (values.tanh() + 1) / 2
