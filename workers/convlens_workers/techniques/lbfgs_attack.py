"""The smallest change towards a class, by L-BFGS-B (Szegedy et al. 2014, arXiv:1312.6199, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from torch import Tensor

from convlens.v1 import adversarial_pb2
from convlens_models.measures.certificate import AttackGoal
from convlens_workers.jobs.techniques.lbfgs_attack import EVALUATIONS
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import attacks
from convlens_workers.techniques.parts.loop import Losses, optimise

Params = adversarial_pb2.LbfgsAttack
F64 = NDArray[np.float64]
TENFOLD: Final = 10.0
"""Factor by which c changes until it is bounded from both sides."""
TOLERANCE: Final = 1e-6
"""Relative fall of the objective in an iteration below which it has converged."""


def lbfgs_attack(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """For each image, values of c are tried one after the other; each is a step, and starts at the image.

    c grows tenfold until the target is reached, or shrinks tenfold as long as it is; then follows a binary
    search on log c. scipy's minimiser cannot be left half-way, so that a job goes on from whole searches.

    Returns:
        "original", "adversarial" (N, 3, H, W); "perturbation", their difference x 10 about grey; report
        "attack". An image that never reached its target is the one that the last c gave.
    """
    params = task.params
    original = attacks.stacked(task, "images")
    targets = attacks.class_indices(params.targets, len(original))
    classify = attacks.classifier(task.network)
    stages = [
        Searches(classify, original, index, goal, params, params.searches)
        for index, goal in enumerate(attacks.targeted(target.expand(2), task.manifest) for target in targets)
    ]
    held = yield from optimise(stages, state, task.seed, task.device)
    return attacks.smallest_changes(
        classify, task.manifest, original, held, attacks.targeted(targets, task.manifest)
    )


@dataclass(frozen=True)
class Searches:
    """All values of c for one image: a stage of the loop.

    In its state, for each image: `adversarial` and `l2`, the nearest yet; `queries`. For this one: `low` and
    `high`, the largest c that failed and the smallest that led to the target; `constant`, the next.
    """

    classify: attacks.Classifier
    original: Tensor
    index: int
    goal: AttackGoal
    params: Params
    steps: int

    def start(self, last: State, _rng: torch.Generator) -> State:
        """The images themselves, and the first c."""
        count = len(self.original)
        nearest = last or {
            "adversarial": self.original,
            "l2": torch.full((count,), math.inf),
            "queries": torch.zeros(count, dtype=torch.int64),
        }
        bounds = {"low": 0.0, "high": math.inf, "constant": self.params.initial_constant}
        return nearest | {name: torch.tensor(value, dtype=torch.float64) for name, value in bounds.items()}

    def advance(self, held: State, _rng: torch.Generator) -> tuple[State, Losses]:
        """The search with one c."""
        constant = float(held["constant"])
        tried = search(self.classify, self.original[self.index], self.goal, constant, self.params.steps)
        bounds = {name: float(held[name]) for name in ("low", "high")}
        bounds["high" if tried.met else "low"] = constant
        bounds["constant"] = following(bounds["low"], bounds["high"])
        new = {name: held["constant"].new_tensor(value) for name, value in bounds.items()}
        losses = {"cross_entropy": tried.cross_entropy, "l2": tried.l2, "constant": constant}
        terms = {name: torch.tensor(value) for name, value in losses.items()}
        return {**held, **new, **self.nearest(held, tried)}, terms

    def nearest(self, held: State, tried: Tried) -> State:
        """The smallest change that met the target; until one has, the last, which came nearest."""
        new = {name: held[name].clone() for name in ("adversarial", "l2", "queries")}
        new["queries"][self.index] += tried.queries
        least = float(held["l2"][self.index])
        if tried.met:
            new["l2"][self.index] = min(least, tried.l2)
        if math.isinf(least) or (tried.met and tried.l2 < least):
            new["adversarial"][self.index] = tried.image
        return new

    def picture(self, held: State) -> Tensor:
        """The nearest image yet."""
        return held["adversarial"][self.index : self.index + 1]


@dataclass(frozen=True)
class Tried:
    """What a c led to: an image (3, H, W), and whether it meets its target, in 8 bits too."""

    image: Tensor
    cross_entropy: float
    l2: float
    met: bool
    queries: int


def search(
    classify: attacks.Classifier, original: Tensor, goal: AttackGoal, constant: float, steps: int
) -> Tried:
    """min CE(x + r, target) + |r|^2 / c over r, with x + r in [0, 1]^d.

    That is Szegedy's objective over c, which scipy's tolerances suit better as it does not shrink with c. The
    network computes in float32, all else in float64.
    """
    start = original.cpu().numpy().astype(np.float64).ravel()
    wanted = torch.tensor(goal.classes[:1])
    entropy = math.inf

    def objective(pixels: F64) -> tuple[float, F64]:
        nonlocal entropy
        image = torch.from_numpy(pixels).to(original).view(1, *original.shape)
        value, gradient = attacks.loss_gradients(classify, image, wanted)
        entropy = float(value)
        change = pixels - start
        slope = gradient.cpu().numpy().astype(np.float64).ravel()
        return entropy + float(change @ change) / constant, slope + 2 * change / constant

    options = {"maxiter": steps, "maxfun": EVALUATIONS * steps, "ftol": TOLERANCE, "gtol": 0.0}
    least = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=Bounds(0, 1), options=options)
    image = torch.from_numpy(least.x).to(original).view(original.shape)
    # Rounding is as long as the change itself: what is reached only between two grey levels is not reached.
    seen = attacks.met(goal, classify, torch.stack([image, (image * 255).round() / 255]))
    l2 = float(torch.linalg.vector_norm((image - original).double()))
    return Tried(image, entropy, l2, bool(seen.all()), least.nfev + len(seen))


def following(low: float, high: float) -> float:
    """The c to try next, between one that failed and one that led to the target."""
    if math.isinf(high):
        return TENFOLD * low
    return high / TENFOLD if low == 0 else math.sqrt(low * high)
