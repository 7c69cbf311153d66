"""Carlini & Wagner's attack before it is queued."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import (
    IMAGES_ALIKE,
    Specification,
    Submission,
    batch,
    certificates,
    one_an_image,
)
from convlens_workers.jobs.techniques.work import FORWARD, Pass, Steps

RUNNING: Final = 0.15
"""Share of the steps that an image is expected to take before its loss has stopped to fall."""


def work(job: Submission) -> list[Steps]:
    """All steps of all searches, of the images that still run."""
    params, (count, size) = job.params, batch(job)
    predicted = 0 if params.targets or params.labels else count
    running = count if params.no_early_stop else RUNNING * count
    return [
        Steps(0, before=(Pass(size, predicted, FORWARD),)),
        *[Steps(params.steps, (Pass(size, running),))] * params.searches,
        certificates(count, size),
    ]


SPECIFICATION: Final = Specification(
    (
        IMAGES_ALIKE,
        one_an_image("targets", one_for_all=True, none=True),
        one_an_image("labels", none=True),
    ),
    work,
)
