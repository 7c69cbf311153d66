"""Attacks on printed photographs before they are queued."""

from __future__ import annotations

from itertools import chain
from typing import Final

from convlens_workers.jobs.techniques.base import (
    IMAGES_ALIKE,
    LABELS,
    Specification,
    Submission,
    batch,
    classes_exclude_each_other,
)
from convlens_workers.jobs.techniques.work import CAMERA, FORWARD, JPEG, Pass, Steps

EPSILONS: Final = (4 / 255, 8 / 255, 16 / 255)
LEVEL: Final = 1 / 255
"""Length of a step of the attacks that iterate."""


def epsilons_rise(job: Submission) -> None:
    """Each epsilon is above the one before, and at most 1."""
    before = 0.0
    for position, epsilon in enumerate(job.params.epsilons):
        if not before < epsilon <= 1:
            allowed = f"above {before:.6g} and at most 1"
            raise job.refused(f"epsilons[{position}]", round(epsilon, 6), allowed)
        before = epsilon


def one_step(_: float) -> int:
    """Steps of an attack that goes all the way at once."""
    return 1


def iterations(epsilon: float) -> int:
    """min(e + 4, 1.25 e) for e = 255 epsilon, at least 1 (section 2.2 of the paper)."""
    levels = epsilon / LEVEL
    return max(1, round(min(levels + 4, 1.25 * levels)))


STEPS: Final = {"fgsm": one_step, "bim": iterations, "least_likely": iterations}
"""The attacks, and how many steps each takes for an epsilon."""


def work(job: Submission) -> list[Steps]:
    """Photographs of the pictures; then each attack at each epsilon, and photographs of its prints."""
    params, (count, size) = job.params, batch(job)
    print_ = Pass(size, count, FORWARD)
    taken = tuple(Pass(size, count, FORWARD, network=cost) for cost in (2 * CAMERA, JPEG))
    cells = [steps(epsilon) for steps in STEPS.values() for epsilon in params.epsilons or EPSILONS]
    photographs = Steps(params.photographs, (print_, *taken), before=(print_, *taken))
    attacks = ((Steps(steps, (Pass(size, count),)), photographs) for steps in cells)
    return [photographs, *chain.from_iterable(attacks)]


SPECIFICATION: Final = Specification((classes_exclude_each_other, IMAGES_ALIKE, LABELS, epsilons_rise), work)
