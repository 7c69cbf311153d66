"""DeepDream before it is queued: its layers and channels, tiles and frames."""

from __future__ import annotations

from typing import Final

from convlens.v1 import job_pb2
from convlens_models.manifest import Manifest
from convlens_workers.jobs.pictures import Size
from convlens_workers.jobs.techniques.base import Specification, Submission
from convlens_workers.jobs.techniques.sizes import scaled_size, tiles
from convlens_workers.jobs.techniques.work import FORWARD, Pass, Steps

SMALLEST_SIDE: Final = 32
"""Smallest side of an octave in pixels, whatever the network takes."""
MOST_PIXELS: Final = 1 << 27
"""Of all frames of a video together: what its checkpoints and its result may hold."""


def dream_layers(params: job_pb2.DeepDream, manifest: Manifest) -> list[str]:
    """The layers that are amplified."""
    return list(params.layers or manifest.dream_layers)


def smallest_side(manifest: Manifest) -> int:
    """The smallest side in pixels that is worth while and that the network takes."""
    return max(SMALLEST_SIDE, manifest.min_size if manifest.dynamic_size else 0)


def layers_exist(job: Submission) -> None:
    """There is a layer to dream of; only one, where there are channels."""
    layers = dream_layers(job.params, job.manifest)
    if not layers:
        raise job.refused("layers", [], f"set: {job.manifest.name} has no dream layers")
    if job.params.channels and len(layers) > 1:
        raise job.refused("layers", layers, "only one, as there are channels")


def channels_exist(job: Submission) -> None:
    """The layer has these channels."""
    for position, channel in enumerate(job.params.channels):
        layer = dream_layers(job.params, job.manifest)[0]
        count = job.manifest.layer(layer, f"{job.technique}.layers[0]").shape[0]
        if not 0 <= channel < count:
            allowed = f"between 0 and {count - 1}, the last channel of {layer}"
            raise job.refused(f"channels[{position}]", channel, allowed)


def tile_is_large_enough(job: Submission) -> None:
    """A tile holds twice what the network needs."""
    least = 2 * smallest_side(job.manifest)
    if 0 < job.params.tile < least:
        raise job.refused("tile", job.params.tile, f"0, or at least {least}")


def frames_fit(job: Submission) -> None:
    """A video fits into the worker's memory."""
    height, width = job.sizes["image"]
    most = max(1, MOST_PIXELS // (height * width))
    if job.params.frames > most:
        raise job.refused("frames", job.params.frames, f"at most {most} of {height} x {width} pixels")


def octaves(size: Size, params: job_pb2.DeepDream, manifest: Manifest) -> list[Size]:
    """Sizes from small to large; those too small to see anything in, or for the network, are left out."""
    height, width = size
    factors = [params.octave_scale**-n for n in reversed(range(params.octaves))]
    sizes = [(round(height * factor), round(width * factor)) for factor in factors[:-1]]
    return [each for each in sizes if min(each) >= smallest_side(manifest)] + [size]


def guide_size(size: Size, manifest: Manifest) -> Size:
    """Of a guide: the network's own, for its features stand for all octaves."""
    ratio = min(1.0, max(manifest.input_size / max(size), smallest_side(manifest) / min(size)))
    return scaled_size(size, ratio, least=1)


def work(job: Submission) -> list[Steps]:
    """The steps of all octaves of all frames, each tile by tile; the guide is looked at once."""
    params, layers = job.params, tuple(dream_layers(job.params, job.manifest))
    frame = [
        Steps(params.steps, tuple(Pass(*tile, layers=layers) for tile in tiles(size, params.tile)))
        for size in octaves(job.sizes["image"], params, job.manifest)
    ]
    guide = job.sizes.get("guide")
    seen = (Pass(guide_size(guide, job.manifest), 1, FORWARD, layers),) if guide else ()
    return [Steps(0, before=seen), *frame * max(1, params.frames)]


SPECIFICATION: Final = Specification(
    (layers_exist, channels_exist, tile_is_large_enough, frames_fit), work, reads=dream_layers
)
