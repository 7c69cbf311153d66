"""Auto-PGD: projected gradient descent that finds its own step size.

Croce & Hein: Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks
(2020), arXiv:2003.01690, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from convlens_workers.techniques.parts.attacks import Classifier, cross_entropy, gradients
from convlens_workers.techniques.parts.balls import Ball, inside, moved
from convlens_workers.techniques.parts.ensemble import EnsembleBatch, Points

MOMENTUM: Final = 0.75
RISING: Final = 0.75
"""Share of the steps since the last checkpoint that must have raised the loss."""

Objective = Callable[[Tensor, EnsembleBatch], Tensor]
"""What to raise, (n), by log-probabilities (n, classes)."""


@dataclass(frozen=True)
class Apgd:
    """z = P(x_k + eta d(g_k)); x_k+1 = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_k-1)), first eta 2 epsilon.

    P projects into the ball and [0, 1], d is the ball's direction, g the gradient. At each checkpoint eta is
    halved, and x goes back to the best point so far, where fewer than 75% of the steps since the last one
    raised the loss, or where neither eta nor the best loss has changed since then. All of this for each image
    on its own.

    The start is a random point of the ball, which follows from the seed and the image alone. An image that is
    classified wrongly is done; all others go on.
    """

    name: str
    classify: Classifier
    objective: Objective
    ball: Ball
    epsilon: float
    steps: int
    place: int = 0
    """Among the attacks of this name, so that each has starts of its own."""

    @cached_property
    def checkpoints(self) -> dict[int, int]:
        """Steps after which eta may be halved, and how many each has to look back on."""
        ends = checkpoints(self.steps)
        return {end: end - before for before, end in zip([0, *ends], ends, strict=False)}

    def begin(self, batch: EnsembleBatch, rng: torch.Generator) -> Points:
        """A random point of the ball, at the cost of one pass."""
        noise = inside(self.ball, rng, batch.images, self.epsilon, f"{self.name} {self.place}")
        start = (batch.images + noise).clamp(0, 1)
        seen = self._probe(batch, start)
        return {
            **seen,
            **{best: seen[name] for best, name in BEST.items()},
            "passes": torch.ones_like(batch.labels),
            "previous": start,
            "eta": torch.full_like(seen["value"], 2 * self.epsilon),
            "rises": torch.zeros_like(batch.labels),
            "mark": seen["value"],
            "halved": torch.zeros_like(seen["wrong"]),
        }

    def advance(self, batch: EnsembleBatch, points: Points, number: int, _: torch.Generator) -> Points:
        """Step `number`, counted from 1, at the cost of one pass."""
        here, last = points["found"], points["previous"]
        eta = points["eta"].view(-1, 1, 1, 1)
        ahead = self._moved(batch, here + eta * self.ball.direction(points["gradient"]))
        if number > 1:
            ahead = self._moved(batch, here + MOMENTUM * (ahead - here) + (1 - MOMENTUM) * (here - last))
        seen = self._probe(batch, ahead)
        better = seen["value"] > points["best_value"]
        after = {
            **points,
            **seen,
            **{best: _where(better, seen[name], points[best]) for best, name in BEST.items()},
            "previous": here,
            "rises": points["rises"] + (seen["value"] > points["value"]),
        }
        return self._checked(after, self.checkpoints[number]) if number in self.checkpoints else after

    def _checked(self, points: Points, window: int) -> Points:
        """The points after a checkpoint; those that are wrong already stay where they are."""
        stuck = ~points["halved"] & (points["best_value"] == points["mark"])
        halve = (points["rises"] < RISING * window) | stuck
        back = halve & ~points["wrong"]
        return {
            **points,
            **{name: _where(back, points[best], points[name]) for best, name in BEST.items()},
            "eta": torch.where(halve, points["eta"] / 2, points["eta"]),
            "rises": torch.zeros_like(points["rises"]),
            "mark": points["best_value"],
            "halved": halve,
        }

    def _moved(self, batch: EnsembleBatch, to: Tensor) -> Tensor:
        return moved(batch.images, to, self.ball, self.epsilon)

    def _probe(self, batch: EnsembleBatch, images: Tensor) -> Points:
        """The points at `images`: the objective, its gradient, and whether the network is wrong."""
        wrong = []

        def objective(some: Tensor, which: slice) -> Tensor:
            scores, part = self.classify(some), batch[which]
            wrong.append(scores.argmax(1) != part.labels)
            return self.objective(scores, part)

        value, gradient = gradients(images, objective)
        return {"found": images, "value": value, "gradient": gradient, "wrong": torch.cat(wrong)}


BEST: Final = {"best": "found", "best_value": "value", "best_gradient": "gradient"}
"""What the best point so far is kept under, and what is kept of it."""


def checkpoints(steps: int) -> list[int]:
    """w_j = ceil(p_j steps), p_1 = 0.22, p_j+1 = p_j + max(p_j - p_j-1 - 0.03, 0.06), up to `steps`.

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    ends, share, gap = set(), 22, 22  # In hundredths, which are exact.
    while share <= 100:
        ends.add(-(-share * steps // 100))
        gap = max(gap - 3, 6)
        share += gap
    return sorted(ends)


def away(log_probabilities: Tensor, batch: EnsembleBatch) -> Tensor:
    """The untargeted objective: the cross entropy of the labels, (n)."""
    return cross_entropy(log_probabilities, batch.labels)


def towards(rival: int) -> Objective:
    """The targeted difference-of-logits ratio, (z_t - z_y) / (z_1 - (z_3 + z_4) / 2), for a rival t.

    z_1, z_3 and z_4 are the largest, third and fourth largest logits. Of three classes z_3 stands for both;
    two have no such scale, and get z_t - z_y. Differences of logits are those of log-probabilities.
    """

    def ratio(log_probabilities: Tensor, batch: EnsembleBatch) -> Tensor:
        pair = torch.stack([batch.rivals[:, rival], batch.labels], 1)
        target, label = log_probabilities.gather(1, pair).unbind(1)
        if log_probabilities.shape[1] < 3:
            return target - label
        ranked = log_probabilities.topk(min(4, log_probabilities.shape[1])).values
        return (target - label) / (ranked[:, 0] - ranked[:, 2:].mean(1) + 1e-12)

    return ratio


def _where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(condition.view(-1, *[1] * (yes.ndim - 1)), yes, no)
