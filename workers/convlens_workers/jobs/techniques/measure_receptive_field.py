"""The measurement of a receptive field before it is queued: unit, patches, and the images to look at."""

from __future__ import annotations

from statistics import fmean
from typing import Final

from convlens.v1 import inspection_pb2
from convlens_models.measures.discrepancy import Patches, part_of
from convlens_models.measures.receptive_field import receptive_field
from convlens_models.measures.units import check_channel
from convlens_workers.jobs.techniques.base import Preparation, Ranking, Specification, Submission
from convlens_workers.jobs.techniques.work import FORWARD, READING, Pass, Steps


def unit_exists(job: Submission) -> None:
    """The layer has spatial axes, and this channel."""
    params = job.params
    check_channel(job.manifest.layer(params.layer).shape, params.layer, params.channel, f"{job.technique}.")


def patches_fit(job: Submission) -> None:
    """Patches fit into the images and leave no gaps."""
    side, settings = job.manifest.input_size, job.params.discrepancy
    Patches(settings.patch, settings.stride, 0).check((side, side), f"{job.technique}.discrepancy")


def work(job: Submission) -> list[Steps]:
    """Each image whole and in part; then the part that the unit sees, under each patch that touches it.

    The unit is taken to be anywhere; how many passes that makes is only known where it has been found.
    """
    params, manifest = job.params, job.manifest
    layer, settings, side = manifest.layer(params.layer), params.discrepancy, manifest.input_size
    images, layers = len(params.images) or params.k, (params.layer,)
    starts = Patches(settings.patch, settings.stride, 0).starts(side)
    seen, occluded = [], []
    for place in range(layer.shape[1]):
        field = receptive_field(layer, place, place, (side, side))
        part = part_of(field, layer.stride, (side, side), manifest)
        seen.append(part.bottom - part.top)
        touching = (starts < field.bottom) & (starts + settings.patch > field.top)
        occluded.append(seen[-1] * int(touching.sum()))
    size = (round(fmean(seen)),) * 2
    patches = (fmean(occluded) / size[0]) ** 2
    passes = (
        Pass((1, 1), 1, FORWARD, network=READING),
        Pass((side, side), 1, FORWARD, layers),
        Pass(size, 1 + patches, FORWARD, layers),
    )
    return [Steps(0, before=passes)] * images


def prepare(job: Submission, server: Preparation) -> None:
    """Fill in the `k` images of the collection that excite the unit most, strongest first.

    Raises:
        FailedPrecondition: images without features.
    """
    params = job.params
    ranking = Ranking(params.layer, inspection_pb2.POOLING_MAX, lambda rows: rows[:, params.channel])
    del params.images[:]
    params.images.extend(digest for digest, _ in server.strongest(ranking, params.k))


SPECIFICATION: Final = Specification((unit_exists, patches_fit), work, prepare=prepare)
