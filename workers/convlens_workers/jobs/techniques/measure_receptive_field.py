"""The measurement of a receptive field before it is queued: unit, patches, and the images to look at."""

from __future__ import annotations

from typing import Final

from convlens.v1 import inspection_pb2
from convlens_models.measures.discrepancy import Patches
from convlens_models.measures.units import check_channel
from convlens_workers.jobs.techniques.base import Preparation, Ranking, Specification, Submission


def unit_exists(job: Submission) -> None:
    """The layer has spatial axes, and this channel."""
    params = job.params
    check_channel(job.manifest.layer(params.layer).shape, params.layer, params.channel, f"{job.technique}.")


def patches_fit(job: Submission) -> None:
    """Patches fit into the images and leave no gaps."""
    side, settings = job.manifest.input_size, job.params.discrepancy
    Patches(settings.patch, settings.stride, 0).check((side, side), f"{job.technique}.discrepancy")


def cost(job: Submission) -> float:
    """Forward passes over the unit's theoretical field, one for each patch that touches it, in each image."""
    params, manifest = job.params, job.manifest
    layer, settings = manifest.layer(params.layer), params.discrepancy
    field = min(layer.receptive_field, manifest.input_size)
    patches = ((field + settings.patch) / settings.stride) ** 2
    return float(params.k * patches * manifest.multiply_adds * (field / manifest.input_size) ** 2)


def prepare(job: Submission, server: Preparation) -> None:
    """Fill in the `k` images of the collection that excite the unit most, strongest first.

    Raises:
        FailedPrecondition: images without features.
    """
    params = job.params
    ranking = Ranking(params.layer, inspection_pb2.POOLING_MAX, lambda rows: rows[:, params.channel])
    del params.images[:]
    params.images.extend(digest for digest, _ in server.strongest(ranking, params.k))


SPECIFICATION: Final = Specification((unit_exists, patches_fit), cost, prepare=prepare)
