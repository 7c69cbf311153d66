"""The ensemble of attacks before it is queued."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import (
    IMAGES_ALIKE,
    LABELS,
    PASSES,
    Specification,
    Submission,
    optimisation_cost,
    radius_in_range,
)


def cost(job: Submission) -> float:
    """APGD on the label and on each target; a query of Square has no way back."""
    params = job.params
    runs: float = 1 + params.targets + params.queries / (PASSES * params.steps)
    return optimisation_cost(job, params.steps) * runs


SPECIFICATION: Final = Specification((IMAGES_ALIKE, LABELS, radius_in_range), cost)
