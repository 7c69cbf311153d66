"""The training of a style network before it is queued: layers, its name, and where its pictures are."""

from __future__ import annotations

from typing import Final

from convlens.errors import FailedPrecondition
from convlens_models.importing import publish
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
    ),
    cost,
    reads=style_and_content,
    prepare=prepare,
)
