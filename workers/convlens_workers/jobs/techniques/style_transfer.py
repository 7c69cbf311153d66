"""Style transfer before it is queued: layers with their weights, and styles that count."""

from __future__ import annotations

from typing import Final

from convlens.v1 import job_pb2
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
MOST_STYLE: Final = 4096
"""Pixels of the longer side of a style, scaled."""


def a_style_counts(job: Submission) -> None:
    """One style at least has a weight."""
    if not any(style.weight for style in job.params.styles):
        raise job.refused("styles", "weights of 0", "at least one weight above 0")


def styles_are_at_most(job: Submission) -> None:
    """No style is scaled beyond what memory is for."""
    side = max(job.sizes["content"])
    for place, style in enumerate(job.params.styles):
        if style.scale * side > MOST_STYLE:
            allowed = f"at most {MOST_STYLE / side:.4g}: {MOST_STYLE} pixels beside a content of {side}"
            raise job.refused(f"styles[{place}].scale", f"{style.scale:.4g}", allowed)


def start_is_said_once(job: Submission) -> None:
    """The three fields that say what the picture is before the first step do not contradict each other."""
    params = job.params
    start = job_pb2.StyleStart.Name(params.start).removeprefix("STYLE_START_").lower()
    if params.noise_start and params.start not in (
        job_pb2.STYLE_START_UNSPECIFIED,
        job_pb2.STYLE_START_NOISE,
    ):
        raise job.refused("start", start, "noise, or nothing, beside noise_start")
    if params.HasField("initial") and (params.noise_start or params.start):
        said = f"start = {start}" if params.start else "noise_start"
        raise job.refused("initial", "a picture", f"the only start: leave out {said}")


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
        styles_are_at_most,
        start_is_said_once,
    ),
    cost,
    reads=style_and_content,
    grows=lambda _: ("first_steps", "steps"),
)
