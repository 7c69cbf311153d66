"""Attacks on a defence before they are queued."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import (
    IMAGES_ALIKE,
    LABELS,
    Specification,
    Submission,
    batch,
    certificates,
)
from convlens_workers.jobs.techniques.work import FORWARD, JPEG, Pass, Steps

ATTACKS: Final = 2
"""One that does not know of the defence, and one that does."""
DEFENCES: Final = {"bit_depth": 10.0, "jpeg": JPEG, "total_variation": 20_000.0}
"""About how many multiply-adds a pixel each defence takes as long as."""


def work(job: Submission) -> list[Steps]:
    """A step of both attacks; at the end, what network and defended network say of their points."""
    params, (count, size) = job.params, batch(job)
    defence = DEFENCES[params.defence.WhichOneof("defence")]
    defended = Pass(size, count, FORWARD, network=defence)
    judging = Pass(size, 5 * count, FORWARD)
    return [
        Steps(params.steps, (Pass(size, ATTACKS * count), defended)),
        Steps(0, before=(judging, *[defended] * 6)),
        certificates(count, size),
    ]


SPECIFICATION: Final = Specification((IMAGES_ALIKE, LABELS), work)
