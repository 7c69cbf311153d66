"""Substitute-model attacks before they are queued: on servers that the operator has named, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from convlens.errors import InvalidArgument
from convlens_workers.jobs.techniques.base import PASSES, Specification, Submission, one_size

SELF: Final = "self"
"""Name of the server that jobs are sent to, which is meant where a request names none."""
SUBSTITUTE_MODEL: Final = 2232
"""Multiply-adds a pixel of the copy that is trained."""


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


def cost(job: Submission) -> float:
    """Training of the copy on data that double round by round up to the budget, and the victim's answers.

    It answers about all the data, and about the held-out pictures before and after the attack and with noise.
    """
    params, manifest = job.params, job.manifest
    size = job.pixels / (len(params.images) + len(params.held_out))
    data = [min(len(params.images) << number, params.queries) for number in range(params.rounds + 1)]
    taught = PASSES * SUBSTITUTE_MODEL * params.epochs * sum(data)
    answers = data[-1] + 3 * len(params.held_out)
    return float(size * (taught + answers * manifest.multiply_adds / manifest.input_size**2))


SPECIFICATION: Final = Specification((one_size("images", "held_out"), victim_is_allowed), cost)
