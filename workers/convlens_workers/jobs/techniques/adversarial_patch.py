"""Adversarial patches before they are queued: pictures to learn from, and at least one to judge by."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import Specification, Submission, one_size, optimisation_cost

EVERY: Final = 5
"""One image in so many judges, where none are given for that."""


def there_is_a_judge(job: Submission) -> None:
    """There is a picture to judge the patch by."""
    if not job.params.held_out and len(job.params.images) < EVERY:
        raise job.refused("held_out", "nothing", f"given, or {EVERY} images, of which the last is one")


SPECIFICATION: Final = Specification(
    (one_size("images", "held_out"), there_is_a_judge),
    lambda job: optimisation_cost(job, job.params.samples * job.params.steps),
)
