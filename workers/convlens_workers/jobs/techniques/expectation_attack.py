"""Expectation over transformation before it is queued."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import (
    IMAGES_ALIKE,
    TARGETS,
    Specification,
    Submission,
    batch,
    certificates,
    radius_in_range,
)
from convlens_workers.jobs.techniques.work import CAMERA, FORWARD, GRADIENT, Pass, Steps


def work(job: Submission) -> list[Steps]:
    """All images at once without transforms; each under transforms; three series at each angle."""
    params, (count, size) = job.params, batch(job)
    views, samples = 3 * count * params.held_out, params.samples
    seen = (Pass(size, samples), Pass(size, samples, GRADIENT, network=CAMERA))
    judged = (Pass(size, views, FORWARD), Pass(size, views, FORWARD, network=CAMERA))
    return [
        Steps(params.steps, (Pass(size, count),)),
        *[Steps(params.steps, seen)] * count,
        Steps(params.angles, judged),
        certificates(count, size),
    ]


SPECIFICATION: Final = Specification((IMAGES_ALIKE, TARGETS, radius_in_range), work)
