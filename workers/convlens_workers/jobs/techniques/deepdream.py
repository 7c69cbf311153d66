"""DeepDream before it is queued: its layers and channels, tiles, frames and their file."""

from __future__ import annotations

from typing import Final, NamedTuple

from convlens.v1 import job_pb2
from convlens_models.manifest import Manifest
from convlens_workers.jobs.pictures import Size
from convlens_workers.jobs.techniques.base import Specification, Submission
from convlens_workers.jobs.techniques.layers import weights_fit
from convlens_workers.jobs.techniques.sizes import scaled_size, tiles
from convlens_workers.jobs.techniques.work import FORWARD, Pass, Steps

SMALLEST_SIDE: Final = 32
"""Smallest side of an octave in pixels, whatever the network takes."""
MOST_PIXELS: Final = 1 << 27
"""Of all frames of a video together: what its checkpoints and its result may hold."""


class VideoFormat(NamedTuple):
    """A kind of file for frames: how its name ends, and how many frames a second it can show."""

    suffix: str
    slowest: float
    fastest: float


WEBP: Final = VideoFormat("webp", 1e-4, 60)
VIDEOS: Final = {
    job_pb2.VIDEO_UNSPECIFIED: WEBP,
    job_pb2.VIDEO_WEBP: WEBP,
    job_pb2.VIDEO_GIF: VideoFormat("gif", 2e-3, 50),
    job_pb2.VIDEO_MP4: VideoFormat("mp4", 1e-3, 60),
}


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


def channels_are_chosen_once(job: Submission) -> None:
    """Channels are named, or chosen by strength, and no layer has fewer than are chosen."""
    params = job.params
    layers = {name: job.manifest.layer(name).shape[0] for name in dream_layers(params, job.manifest)}
    for field in ("strongest", "weakest"):
        count = getattr(params, field)
        if count and params.channels:
            raise job.refused(field, count, "left out, as there are channels")
        for name, channels in layers.items():
            if count > channels:
                raise job.refused(field, count, f"at most {channels}, the channels of {name}")


def video_has_frames(job: Submission) -> None:
    """A file of frames is asked for only where there are several."""
    if job.params.video and job.params.frames <= 1:
        raise job.refused("video", VIDEOS[job.params.video].suffix, "left out without several frames")


def video_has_this_rate(job: Submission) -> None:
    """The file can show so many frames a second."""
    video, rate = VIDEOS[job.params.video], job.params.frame_rate
    if job.params.frames > 1 and not video.slowest <= rate <= video.fastest:
        allowed = f"between {video.slowest:g} and {video.fastest:g} for {video.suffix}"
        raise job.refused("frame_rate", rate, allowed)


def octaves(size: Size, params: job_pb2.DeepDream, manifest: Manifest) -> list[Size]:
    """Sizes from small to large; those too small to see anything in, or for the network, are left out."""
    height, width = size
    factors = [params.octave_scale**-n for n in reversed(range(params.octaves))]
    sizes = [(round(height * factor), round(width * factor)) for factor in factors[:-1]]
    return [each for each in sizes if min(each) >= smallest_side(manifest)] + [size]


def input_size(size: Size, manifest: Manifest) -> Size:
    """Of what is looked at once: the longer side is the network's own, but no side is too small for it."""
    ratio = min(1.0, max(manifest.input_size / max(size), smallest_side(manifest) / min(size)))
    return scaled_size(size, ratio, least=1)


def work(job: Submission) -> list[Steps]:
    """The steps of all octaves of all frames, each tile by tile.

    Once looked at are the guide, and the picture where its channels are to be chosen; a mask never is.
    """
    params, layers = job.params, tuple(dream_layers(job.params, job.manifest))
    frame = [
        Steps(params.steps, tuple(Pass(*tile, layers=layers) for tile in tiles(size, params.tile)))
        for size in octaves(job.sizes["image"], params, job.manifest)
    ]
    chosen = bool(params.strongest or params.weakest)
    seen = [size for name, size in job.sizes.items() if name == "guide" or (name == "image" and chosen)]
    looks = tuple(Pass(input_size(size, job.manifest), 1, FORWARD, layers) for size in seen)
    return [Steps(0, before=looks), *frame * max(1, params.frames)]


SPECIFICATION: Final = Specification(
    (
        layers_exist,
        weights_fit(lambda manifest: list(manifest.dream_layers)),
        channels_exist,
        channels_are_chosen_once,
        tile_is_large_enough,
        frames_fit,
        video_has_frames,
        video_has_this_rate,
    ),
    work,
    reads=dream_layers,
    grows=lambda params: ("steps",) if params.frames <= 1 else (),
)
