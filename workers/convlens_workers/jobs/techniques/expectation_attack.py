"""Expectation over transformation before it is queued."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import (
    IMAGES_ALIKE,
    TARGETS,
    Specification,
    optimisation_cost,
    radius_in_range,
)

SPECIFICATION: Final = Specification(
    (IMAGES_ALIKE, TARGETS, radius_in_range),
    lambda job: optimisation_cost(job, job.params.samples * job.params.steps),
)
