"""The training of a style network before it is queued: layers, its name, and where its pictures are."""

from __future__ import annotations

from typing import Final

from convlens.errors import FailedPrecondition
from convlens.v1 import model_pb2, style_pb2
from convlens_models import style_networks
from convlens_models.importing import publish
from convlens_models.repository import ModelRepository, StoredModel
from convlens_workers.jobs.techniques.base import Preparation, Specification, Submission, optimisation_cost
from convlens_workers.jobs.techniques.layers import (
    content_is_described,
    layers_have_positions,
    style_and_content,
    style_layers,
    weights_fit,
)


def name_is_free(job: Submission) -> None:
    """The name is usable, and not that of a classifier."""
    publish.check_kind(job.resources.repository, job.params.name, "style", f"{job.technique}.name")


def folder_is_allowed(job: Submission) -> None:
    """The operator has allowed the folder, if one is named."""
    params, folders = job.params, job.resources.folders
    if params.WhichOneof("source") == "folder" and params.folder not in folders:
        allowed = (
            f"one of {', '.join(sorted(folders))}" if folders else "a collection: no folder is allowed here"
        )
        raise job.refused("folder", params.folder, allowed)


def start_from(params: style_pb2.TrainStyle, repository: ModelRepository) -> StoredModel | None:
    """The version that the training goes on from, if there is one. Raises NotFound."""
    ref = params.start_from
    if not params.HasField("start_from"):
        return None
    return repository.get(ref.name, ref.version if ref.HasField("version") else None)


def start_is_a_style_network(job: Submission) -> None:
    """It can be gone on from."""
    start = start_from(job.params, job.resources.repository)
    if start and (start.manifest.task != "style" or start.manifest.architecture not in style_networks.PIXELS):
        kind = f"{start.manifest.architecture}, a network for {start.manifest.task}"
        raise job.refused("start_from", f"{start.manifest.name}: {kind}", "a style network")


def width_is_that_of_the_start(job: Submission) -> None:
    """Weights have one width."""
    start, width = start_from(job.params, job.resources.repository), job.params.width
    if start and width and start.manifest.task == "style" and width != style_networks.width(start):
        name = f"{start.manifest.name}/{start.manifest.version}"
        raise job.refused("width", width, f"{style_networks.width(start)}, that of {name}, or left out")


def complete(job: Submission) -> None:
    """Fill in the version that the training goes on from, and the width. Raises NotFound: no such network."""
    start = start_from(job.params, job.resources.repository)
    if start:
        version = model_pb2.ModelRef(name=start.manifest.name, version=start.manifest.version)
        job.params.start_from.CopyFrom(version)
    if not job.params.width:
        known = start is not None and start.manifest.task == "style"
        job.params.width = style_networks.width(start) if start and known else style_networks.WIDTH


def cost(job: Submission) -> float:
    """All steps on batches of crops, through the request's network and the convolutions of the new one."""
    params = job.params
    trained = 135 * params.width**2 + 486 * params.width
    return optimisation_cost(job, params.steps, params.batch * params.size**2, beside=trained)


def prepare(job: Submission, server: Preparation) -> None:
    """Fill in lists of the collection's pictures as they are now.

    Raises:
        FailedPrecondition: there are none.
    """
    params = job.params
    del params.shards[:]
    if params.WhichOneof("source") == "collection":
        if not server.order:
            raise FailedPrecondition(f"collection {params.collection!r} has no pictures to learn from")
        params.shards.extend(server.put_shards(server.order))


SPECIFICATION: Final = Specification(
    (
        weights_fit(style_layers),
        layers_have_positions,
        content_is_described,
        name_is_free,
        folder_is_allowed,
        start_is_a_style_network,
        width_is_that_of_the_start,
    ),
    cost,
    complete,
    reads=style_and_content,
    prepare=prepare,
)
