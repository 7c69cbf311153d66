"""Texture synthesis before it is queued: a weight for each layer; all steps on the picture that is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from convlens.v1 import job_pb2
from convlens_models.manifest import Manifest
from convlens_workers.jobs.pictures import Size
from convlens_workers.jobs.techniques.base import Specification, Submission
from convlens_workers.jobs.techniques.layers import activations, layers_have_positions, weights_fit
from convlens_workers.jobs.techniques.sizes import framed_size, scaled_size, scales
from convlens_workers.jobs.techniques.work import FIRST_SEARCH, FORWARD, LINE_SEARCH, Pass, Steps, gram_cost

SMALLEST_SIDE: Final = 128
"""Pixels of picture and sample. Below it fine textures are noise, and deep layers have too few positions."""
RATIO: Final = 2.0


def picture_sizes(params: job_pb2.Texture, sample: Size) -> list[Size]:
    """The sizes that the picture has one after the other; the last is asked for, by default the sample's."""
    full = (params.height or sample[0], params.width or sample[1])
    smallest = SMALLEST_SIDE * min(full) / min(*full, *sample)
    return scales(full, params.scales, RATIO, smallest)


def sample_size(sample: Size, picture: Size, full: Size) -> Size:
    """Of the sample, smaller than it is as the picture is smaller than it will be."""
    return scaled_size(sample, picture[0] / full[0], least=8)


def work(job: Submission) -> Iterator[Steps]:
    """The steps at each size; before them, what texture the sample has there."""
    params, manifest, sample = job.params, job.manifest, job.sizes["sample"]
    layers, sizes = tuple(reads(params, manifest)), picture_sizes(params, sample)
    once = params.optimiser == job_pb2.OPTIMISER_ADAM
    evaluations, more = (1, 0) if once else (LINE_SEARCH, FIRST_SEARCH)
    for size in sizes:
        shown = framed_size(sample_size(sample, size, sizes[-1]))
        grams = Pass(size, evaluations, network=gram_cost(layers, manifest))
        passes = (Pass(framed_size(size), evaluations, layers=layers), grams)
        first = (Pass(shown, 1, FORWARD, layers), Pass(framed_size(size), more, layers=layers))
        yield Steps(params.steps, passes, before=first)


def reads(params: Any, manifest: Manifest) -> list[str]:
    """Every ReLU, unless layers are named."""
    return list(params.layers) or activations(manifest)


SPECIFICATION: Final = Specification(
    (weights_fit(activations), layers_have_positions), work, reads=reads, grows=lambda _: ("steps",)
)
