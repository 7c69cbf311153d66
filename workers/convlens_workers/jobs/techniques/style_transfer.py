"""Style transfer before it is queued: layers with their weights, and styles that count."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from convlens.v1 import job_pb2
from convlens_models.manifest import Manifest
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
MOST_STYLE: Final = 4096
"""Pixels of the longer side of a style, scaled."""
LEAST_SIDE: Final = 8
"""Pixels of a style's shorter side."""


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


def picture_sizes(params: job_pb2.StyleTransfer, content: Size) -> list[Size]:
    """The sizes that the picture has one after the other, the content's last; classic has that alone."""
    classic = params.method == job_pb2.STYLE_METHOD_CLASSIC
    return scales(content, 1 if classic else MOST_SCALES, RATIO, params.smallest)


def style_size(style: Size, picture: Size, scale: float, manifest: Manifest) -> Size:
    """Of a style's picture: `scale` times as large as the picture along the longer side; 0 stands for 1.

    No side is too small for the network, for which the frame makes it thrice.
    """
    least = max(LEAST_SIDE, math.ceil((manifest.min_size + 2) / 3))
    return scaled_size(style, (scale or 1.0) * max(picture) / max(style), least)


def optimiser(params: job_pb2.StyleTransfer) -> job_pb2.Optimiser.ValueType:
    """The one that is named, else the method's."""
    classic = params.method == job_pb2.STYLE_METHOD_CLASSIC
    return params.optimiser or (job_pb2.OPTIMISER_LBFGS if classic else job_pb2.OPTIMISER_ADAM)


def work(job: Submission) -> Iterator[Steps]:
    """The steps at each size; before them, what styles and content are there.

    Masks, pools and the start are seen by no network.
    """
    params, manifest = job.params, job.manifest
    seen = tuple(style_and_content(params, manifest))
    layers, content = tuple(params.layers) or tuple(style_layers(manifest)), seen[-1:]
    styles = [(job.sizes[f"styles[{i}].image"], style.scale) for i, style in enumerate(params.styles)]
    searching = optimiser(params) == job_pb2.OPTIMISER_LBFGS
    evaluations, more = (LINE_SEARCH, FIRST_SEARCH) if searching else (1, 0)
    classic = params.method == job_pb2.STYLE_METHOD_CLASSIC
    gram, eigen = gram_cost(layers, manifest), 0 if classic else eigen_cost(layers, manifest)
    count = len(styles)
    for position, size in enumerate(picture_sizes(params, job.sizes["content"])):
        shown = framed_size(size)
        yield Steps(
            params.first_steps if position == 0 else params.steps,
            (
                Pass(shown, evaluations, layers=seen),
                Pass(size, evaluations * count, network=gram),
                Pass((1, 1), evaluations * count, network=eigen),
            ),
            before=(
                Pass(shown, 1, FORWARD, content),
                Pass(shown, more, layers=seen),
                Pass((1, 1), more * count, network=eigen),
                Pass((1, 1), count, FORWARD, network=eigen),
                *(
                    Pass(framed_size(style_size(style, size, scale, manifest)), 1, FORWARD, layers)
                    for style, scale in styles
                ),
            ),
        )


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
    work,
    reads=style_and_content,
    grows=lambda _: ("first_steps", "steps"),
)
