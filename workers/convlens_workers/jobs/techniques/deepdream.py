"""DeepDream before it is queued: its layers and channels, tiles and frames."""

from __future__ import annotations

from typing import Final

from convlens.v1 import job_pb2
from convlens_models.manifest import Manifest
from convlens_workers.jobs.techniques.base import Specification, Submission, optimisation_cost

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


def cost(job: Submission) -> float:
    """All steps on all octaves, of which each has 1 / octave_scale^2 of the pixels of the one above."""
    params = job.params
    octaves: float = sum(params.octave_scale ** (-2 * n) for n in range(params.octaves))
    return optimisation_cost(job, params.steps * params.frames) * octaves


SPECIFICATION: Final = Specification(
    (layers_exist, channels_exist, tile_is_large_enough, frames_fit),
    cost,
    reads=dream_layers,
    grows=lambda params: ("steps",) if params.frames <= 1 else (),
)
