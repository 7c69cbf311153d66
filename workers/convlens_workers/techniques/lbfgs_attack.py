"""The smallest change towards a class, by L-BFGS-B (Szegedy et al. 2014, arXiv:1312.6199, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from convlens.v1 import adversarial_pb2, attack_pb2
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts.attacks import (
    Classifier,
    certified,
    class_indices,
    classifier,
    cross_entropy,
    gradients,
    perturbation,
    predicted,
    stacked,
    targeted,
)
from convlens_workers.techniques.parts.loop import COUNTER

Params = adversarial_pb2.LbfgsAttack
F64 = NDArray[np.float64]
TENFOLD: Final = 10.0
HISTORY: Final = 20
TOLERANCE: Final = 1e-6
"""Relative fall of the objective in an iteration below which it has converged."""
EVALUATIONS: Final = 2
"""At most so many an iteration, as the line search takes more than one at times."""


def lbfgs_attack(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """For each image, values of c are tried one after the other; each is a step, and starts at the image.

    c grows tenfold until the target is reached, or shrinks tenfold as long as it is; then follows a binary
    search on log c. scipy's minimiser cannot be left half-way, so that a job goes on from whole searches.

    Args:
        task: `images["images[i]"]`, all of one size.
        state: of the last step, to go on from.

    Returns:
        "original", "adversarial" (N, 3, H, W); "perturbation", their difference x 10 about grey; report
        "attack". An image that never reached its target is the one that the last c gave.

    Raises:
        InvalidArgument: images of different sizes, targets that are neither one nor one an image.
    """
    params = task.params
    original = stacked(task, "lbfgs_attack.images")
    targets = class_indices(params.targets, len(original), "lbfgs_attack.targets", one_for_all=True)
    classify = classifier(task.network)
    held = state or start(original, params.initial_constant)
    total = len(original) * params.searches
    for number in range(int(held[COUNTER]) + 1, total + 1):
        index = (number - 1) // params.searches
        tried = search(
            classify, original[index], int(targets[index]), float(held["constant"][index]), params.steps
        )
        held = {**narrowed(held, index, tried), COUNTER: torch.tensor(number)}
        losses = {"cross_entropy": tried.cross_entropy, "l2": tried.l2, "constant": tried.constant}
        terms = {name: torch.tensor(value) for name, value in losses.items()}
        yield Step(number, total, terms, tried.image[None], held)
    adversarial = held["adversarial"].to(original)
    certificates = certified(
        classify,
        task.manifest,
        original,
        adversarial,
        targeted(targets),
        queries=held["queries"].tolist(),
    )
    return {
        "original": original,
        "adversarial": adversarial,
        "perturbation": perturbation(original, adversarial),
        "attack": attack_pb2.AttackResult(certificates=certificates),
    }


@dataclass(frozen=True)
class Tried:
    """What a value of c led to: an image (3, H, W), and whether it meets its target, in 8 bits too."""

    constant: float
    image: Tensor
    cross_entropy: float
    l2: float
    met: bool
    queries: int


def search(classify: Classifier, original: Tensor, target: int, constant: float, steps: int) -> Tried:
    """min CE(x + r, target) + |r|^2 / c over r, with x + r in [0, 1]^d.

    That is Szegedy's objective over c, which scipy's tolerances suit better as it does not shrink with c. The
    network computes in float32, all else in float64.
    """
    start = original.cpu().numpy().astype(np.float64).ravel()
    wanted = torch.tensor([target])
    entropy = math.inf

    def objective(pixels: F64) -> tuple[float, F64]:
        nonlocal entropy
        image = torch.from_numpy(pixels).to(original).view(1, *original.shape)
        value, gradient = gradients(image, lambda some, _: cross_entropy(classify(some), wanted))
        entropy = float(value)
        change = pixels - start
        slope = gradient.cpu().numpy().astype(np.float64).ravel()
        return entropy + float(change @ change) / constant, slope + 2 * change / constant

    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * len(start),
        options={
            "maxiter": steps,
            "maxfun": EVALUATIONS * steps,
            "maxcor": HISTORY,
            "ftol": TOLERANCE,
            "gtol": 0.0,
        },
    )
    image = torch.from_numpy(found.x).to(original).view(original.shape)
    # Rounding is as long as the change itself: what is reached only between two grey levels is not reached.
    seen = predicted(classify, torch.stack([image, (image * 255).round() / 255]))
    l2 = float(torch.linalg.vector_norm((image - original).double()))
    return Tried(constant, image, entropy, l2, bool((seen == target).all()), found.nfev + len(seen))


def start(original: Tensor, constant: float) -> State:
    """No c tried yet: `low` is the largest that failed, `high` the smallest that led to the target."""
    count = len(original)
    return {
        COUNTER: torch.tensor(0),
        "adversarial": original,
        "l2": torch.full((count,), math.inf, dtype=torch.float64),
        "low": torch.zeros(count, dtype=torch.float64),
        "high": torch.full((count,), math.inf, dtype=torch.float64),
        "constant": torch.full((count,), constant, dtype=torch.float64),
        "queries": torch.zeros(count, dtype=torch.int64),
    }


def narrowed(held: State, index: int, tried: Tried) -> State:
    """The state after a search for image `index`: its bounds, the next c, and the smallest change yet."""
    new = {name: held[name].clone() for name in ("adversarial", "l2", "low", "high", "constant", "queries")}
    new["queries"][index] += tried.queries
    new["high" if tried.met else "low"][index] = tried.constant
    new["constant"][index] = following(float(new["low"][index]), float(new["high"][index]))
    nothing_yet = math.isinf(held["l2"][index])
    if tried.met and tried.l2 < held["l2"][index]:
        new["l2"][index] = tried.l2
    if nothing_yet or (tried.met and tried.l2 < held["l2"][index]):
        new["adversarial"][index] = tried.image
    return new


def following(low: float, high: float) -> float:
    """The c to try next, between one that failed and one that led to the target."""
    if math.isinf(high):
        return TENFOLD * low
    return high / TENFOLD if low == 0 else math.sqrt(low * high)
