"""Substitute-model attacks before they are queued: on servers that the operator has named, and no others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2
from convlens_workers.jobs.pictures import Size
from convlens_workers.jobs.techniques.base import (
    Specification,
    Submission,
    batch,
    classes_exclude_each_other,
    one_size,
)
from convlens_workers.jobs.techniques.work import FORWARD, GRADIENT, TRAINING, Pass, Steps

SELF: Final = "self"
"""Name of the server that jobs are sent to, which is meant where a request names none."""
SUBSTITUTE_MODEL: Final = 2232
"""Multiply-adds a pixel of the copy that is trained."""
BATCH: Final = 64
ASKED_AT_ONCE: Final = 64
"""Rows that are made, and asked about, at a step."""
BIM_STEPS: Final = 10
"""Of the attack on the copy."""


def address_of(victim: str, victims: Mapping[str, str]) -> str:
    """Where the victim of a request is, given those of CONVLENS_VICTIMS.

    Raises:
        InvalidArgument: none of them; tells their names.
    """
    name = victim or SELF
    if name not in victims:
        names = ", ".join(sorted(victims)) or "there is none"
        allowed = f"a victim that the operator has allowed with CONVLENS_VICTIMS ({names})"
        meant = f"; empty means {SELF!r}" if not victim else ""
        raise InvalidArgument.of("substitute.victim", victim, allowed + meant)
    return victims[name]


def victim_is_allowed(job: Submission) -> None:
    """The operator has allowed to query this victim."""
    address_of(job.params.victim, job.resources.victims)


def row_counts(params: adversarial_pb2.Substitute) -> list[int]:
    """New rows of each round; those of the attack, and of the noise, are the last two."""
    total, held_out = min(len(params.images), params.queries), len(params.held_out)
    counts = [held_out + total]
    for _ in range(params.rounds):
        counts.append(min(total, params.queries - total))
        total += counts[-1]
    return [*counts, held_out, held_out]


def work(job: Submission) -> Iterator[Steps]:
    """Answers about the rows of a round, and training on all rows so far, round by round; then the attack.

    The victim is taken to be as fast as the job's own network here would be.
    """
    params, (_, size) = job.params, batch(job)
    counts, held_out, learnt = row_counts(params), len(params.held_out), -len(params.held_out)
    for number, rows in enumerate(counts):
        yield _asking(size, rows, BIM_STEPS if number == params.rounds + 1 else 1)
        learnt += rows
        if number <= params.rounds:
            batches = math.ceil(learnt / BATCH)
            taught = Pass(size, learnt / batches, TRAINING, network=SUBSTITUTE_MODEL)
            agreement = Pass(size, held_out, FORWARD, network=SUBSTITUTE_MODEL)
            yield Steps(params.epochs * batches, (taught,), before=(agreement,))


def _asking(size: Size, rows: int, gradients: int) -> Steps:
    steps = math.ceil(rows / ASKED_AT_ONCE)
    made = Pass(size, gradients * rows / max(1, steps), GRADIENT, network=SUBSTITUTE_MODEL)
    return Steps(steps, (Pass(size, rows / max(1, steps), FORWARD), made))


SPECIFICATION: Final = Specification(
    (classes_exclude_each_other, one_size("images", "held_out"), victim_is_allowed), work
)
