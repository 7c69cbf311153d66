"""Style transfer before it is queued: layers with their weights, and styles that count."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from convlens.v1 import job_pb2
from convlens_workers.jobs.pictures import Size
from convlens_workers.jobs.techniques.base import Specification, Submission, side_at_most
from convlens_workers.jobs.techniques.layers import (
    content_is_described,
    layers_have_positions,
    style_and_content,
    style_layers,
    weights_fit,
)
from convlens_workers.jobs.techniques.sizes import framed_size, scaled_size, scales
from convlens_workers.jobs.techniques.work import (
    FIRST_SEARCH,
    FORWARD,
    LINE_SEARCH,
    Pass,
    Steps,
    eigen_cost,
    gram_cost,
)

RATIO: Final = math.sqrt(2)
MOST_SCALES: Final = 16
MOST_SIDE: Final = 2048
"""Pixels of the content's longer side."""


def a_style_counts(job: Submission) -> None:
    """One style at least has a weight."""
    if not any(style.weight for style in job.params.styles):
        raise job.refused("styles", "weights of 0", "at least one weight above 0")


def picture_sizes(params: job_pb2.StyleTransfer, content: Size) -> list[Size]:
    """The sizes that the picture has one after the other, the content's last; classic has that alone."""
    classic = params.method == job_pb2.STYLE_METHOD_CLASSIC
    return scales(content, 1 if classic else MOST_SCALES, RATIO, params.smallest)


def style_size(style: Size, picture: Size) -> Size:
    """Of a style's picture: as large as the picture along the longer side."""
    return scaled_size(style, max(picture) / max(style), least=8)


def work(job: Submission) -> Iterator[Steps]:
    """The steps at each size; before them, what styles and content are there."""
    params, manifest = job.params, job.manifest
    layers, seen = tuple(style_layers(manifest)), tuple(style_and_content(params, manifest))
    layers, content = tuple(params.layers) or layers, seen[-1:]
    styles = [job.sizes[f"styles[{i}].image"] for i in range(len(params.styles))]
    classic = params.method == job_pb2.STYLE_METHOD_CLASSIC
    evaluations, more = (LINE_SEARCH, FIRST_SEARCH) if classic else (1, 0)
    statistics = evaluations * len(styles)
    eigen = 0 if classic else eigen_cost(layers, manifest)
    for position, size in enumerate(picture_sizes(params, job.sizes["content"])):
        yield Steps(
            params.first_steps if position == 0 else params.steps,
            (
                Pass(framed_size(size), evaluations, layers=seen),
                Pass(size, statistics, network=gram_cost(layers, manifest)),
                Pass((1, 1), len(styles), network=eigen),
            ),
            before=(
                Pass(framed_size(size), 1, FORWARD, content),
                Pass(framed_size(size), more, layers=seen),
                Pass((1, 1), len(styles), FORWARD, network=eigen),
                *(Pass(framed_size(style_size(style, size)), 1, FORWARD, layers) for style in styles),
            ),
        )


SPECIFICATION: Final = Specification(
    (
        weights_fit(style_layers),
        layers_have_positions,
        content_is_described,
        a_style_counts,
        side_at_most(MOST_SIDE, "content"),
    ),
    work,
    reads=style_and_content,
)
