"""Adversarial patches before they are queued: pictures to learn from, and at least one to judge by."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import Specification, Submission, batch, one_size
from convlens_workers.jobs.techniques.work import CAMERA, FORWARD, GRADIENT, Pass, Steps

EVERY: Final = 5
"""One image in so many judges, where none are given for that."""
PLACEMENTS: Final = 4
"""How often the patch is placed on each picture that judges."""


def there_is_a_judge(job: Submission) -> None:
    """There is a picture to judge the patch by."""
    if not job.params.held_out and len(job.params.images) < EVERY:
        raise job.refused("held_out", "nothing", f"given, or {EVERY} images, of which the last is one")


def work(job: Submission) -> list[Steps]:
    """Gradients through views; then each judge as it is, and in each place with patch, noise, nothing."""
    params, (images, size) = job.params, batch(job)
    seen = (Pass(size, params.samples), Pass(size, params.samples, GRADIENT, network=CAMERA))
    judged = (
        Pass(size, 1 + 3 * PLACEMENTS, FORWARD),
        Pass(size, 3 * PLACEMENTS, FORWARD, network=CAMERA),
    )
    return [Steps(params.steps, seen), Steps(len(params.held_out) or images // EVERY, judged)]


SPECIFICATION: Final = Specification((one_size("images", "held_out"), there_is_a_judge), work)
