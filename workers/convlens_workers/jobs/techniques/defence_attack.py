"""Attacks on a defence before they are queued."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import IMAGES_ALIKE, LABELS, Specification, optimisation_cost

ATTACKS: Final = 2
"""One that does not know of the defence, and one that does."""

SPECIFICATION: Final = Specification(
    (IMAGES_ALIKE, LABELS), lambda job: optimisation_cost(job, job.params.steps) * ATTACKS
)
