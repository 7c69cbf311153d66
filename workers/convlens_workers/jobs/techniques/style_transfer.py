"""Style transfer before it is queued: layers with their weights, and styles that count."""

from __future__ import annotations

from typing import Final

from convlens_workers.jobs.techniques.base import Specification, Submission, optimisation_cost, side_at_most
from convlens_workers.jobs.techniques.layers import (
    content_is_described,
    layers_have_positions,
    style_and_content,
    style_layers,
    weights_fit,
)

MOST_SIDE: Final = 2048
"""Pixels of the content's longer side."""


def a_style_counts(job: Submission) -> None:
    """One style at least has a weight."""
    if not any(style.weight for style in job.params.styles):
        raise job.refused("styles", "weights of 0", "at least one weight above 0")


def cost(job: Submission) -> float:
    """The most steps of a scale, on all pictures."""
    return optimisation_cost(job, max(job.params.first_steps, job.params.steps))


SPECIFICATION: Final = Specification(
    (
        weights_fit(style_layers),
        layers_have_positions,
        content_is_described,
        a_style_counts,
        side_at_most(MOST_SIDE, "content"),
    ),
    cost,
    reads=style_and_content,
    grows=lambda _: ("first_steps", "steps"),
)
