"""L-BFGS attacks before they are queued."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import IMAGES_ALIKE, TARGETS, Specification, optimisation_cost

SPECIFICATION: Final = Specification(
    (IMAGES_ALIKE, TARGETS), lambda job: optimisation_cost(job, job.params.searches * job.params.steps)
)
