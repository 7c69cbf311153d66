"""Carlini & Wagner's attack before it is queued."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import (
    IMAGES_ALIKE,
    Specification,
    one_an_image,
    optimisation_cost,
)

SPECIFICATION: Final = Specification(
    (
        IMAGES_ALIKE,
        one_an_image("targets", one_for_all=True, none=True),
        one_an_image("labels", none=True),
    ),
    lambda job: optimisation_cost(job, job.params.searches * job.params.steps),
)
