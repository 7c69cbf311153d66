"""The ensemble of attacks before it is queued."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import (
    IMAGES_ALIKE,
    LABELS,
    Specification,
    Submission,
    batch,
    certificates,
    classes_exclude_each_other,
    radius_in_range,
)
from convlens_workers.jobs.techniques.work import FORWARD, Pass, Steps

STANDING: Final = 0.01
"""Share of the images that are expected to stand on most steps. A network that is not trained against attacks
loses nearly all of them in the first few; of one that is, more stand, and the job takes longer."""


def work(job: Submission) -> list[Steps]:
    """APGD on the label, on each target, then Square, each on the images that still stand."""
    params, (count, size) = job.params, batch(job)
    targets = min(params.targets, len(job.manifest.labels) - 1)
    first, others = Pass(size, count), Pass(size, STANDING * count)
    return [
        Steps(0, before=(Pass(size, count, FORWARD),)),
        Steps(params.steps, (others,), before=(first,)),
        *[Steps(params.steps, (others,), before=(others,))] * targets,
        Steps(params.queries, (Pass(size, STANDING * count, FORWARD),)),
        certificates(count, size),
    ]


SPECIFICATION: Final = Specification(
    (classes_exclude_each_other, IMAGES_ALIKE, LABELS, radius_in_range), work
)
