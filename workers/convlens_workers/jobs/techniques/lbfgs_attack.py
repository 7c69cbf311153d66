"""L-BFGS attacks before they are queued."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import (
    IMAGES_ALIKE,
    TARGETS,
    Specification,
    Submission,
    batch,
    certificates,
)
from convlens_workers.jobs.techniques.work import FORWARD, Pass, Steps

EVALUATIONS: Final = 2
"""Evaluations an iteration at most, as the line search takes more than one at times."""
EXPECTED: Final = 1.5
"""Evaluations an iteration that are expected."""
MINIMISER: Final = 20_000.0
"""About how many multiply-adds a pixel take as long as the minimiser itself in an evaluation."""


def work(job: Submission) -> list[Steps]:
    """Searches, each a step of many evaluations; at its end, the image as it is and in 8 bits."""
    params, (count, size) = job.params, batch(job)
    evaluations = EXPECTED * params.steps
    search = (
        Pass(size, evaluations),
        Pass(size, evaluations, FORWARD, network=MINIMISER),
        Pass(size, 2, FORWARD),
    )
    return [Steps(count * params.searches, search), certificates(count, size)]


SPECIFICATION: Final = Specification((IMAGES_ALIKE, TARGETS), work)
