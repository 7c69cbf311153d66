"""Attacks on printed photographs before they are queued."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import (
    IMAGES_ALIKE,
    LABELS,
    Specification,
    Submission,
    optimisation_cost,
)


def epsilons_rise(job: Submission) -> None:
    """Each epsilon is above the one before, and at most 1."""
    before = 0.0
    for position, epsilon in enumerate(job.params.epsilons):
        if not before < epsilon <= 1:
            allowed = f"above {before:.6g} and at most 1"
            raise job.refused(f"epsilons[{position}]", round(epsilon, 6), allowed)
        before = epsilon


SPECIFICATION: Final = Specification(
    (IMAGES_ALIKE, LABELS, epsilons_rise), lambda job: optimisation_cost(job, 1)
)
