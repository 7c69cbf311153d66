"""The training of a style network before it is queued: layers, its name, and where its pictures are."""

from __future__ import annotations

from typing import Final

from convlens.errors import FailedPrecondition
from convlens.v1 import model_pb2, style_pb2
from convlens_models import style_networks
from convlens_models.importing import publish
from convlens_models.manifest import Manifest
from convlens_models.repository import ModelRepository, StoredModel
from convlens_workers.jobs.pictures import Size
from convlens_workers.jobs.techniques.base import Preparation, Specification, Submission
from convlens_workers.jobs.techniques.layers import (
    content_is_described,
    layers_have_positions,
    style_and_content,
    style_layers,
    weights_fit,
)
from convlens_workers.jobs.techniques.sizes import scaled_size
from convlens_workers.jobs.techniques.work import FORWARD, READING, TRAINING, Pass, Steps, gram_cost

SHOWN_EVERY: Final = 20
"""Steps between previews, each of which costs about as much as a step."""
PREVIEW_SIDE: Final = 512
"""Pixels of the longer side of a preview that is one of the pictures to learn from."""


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


def style_size(params: style_pb2.TrainStyle, style: Size, manifest: Manifest) -> Size:
    """The size at which the style is learned."""
    side = params.style_size or params.size
    return scaled_size(style, side / max(style), least=manifest.min_size)


def work(job: Submission) -> list[Steps]:
    """Steps on batches of crops, through the new network and the request's; and a preview now and then."""
    params, manifest = job.params, job.manifest
    seen = tuple(style_and_content(params, manifest))
    layers, content = tuple(params.layers) or tuple(style_layers(manifest)), seen[-1:]
    width = params.width or style_networks.WIDTH
    crop, paints = (params.size, params.size), 135 * width**2 + 486 * width
    preview = Pass(job.sizes.get("preview", (PREVIEW_SIDE,) * 2), 1 / SHOWN_EVERY, FORWARD, network=paints)
    return [
        Steps(
            params.steps,
            (
                Pass((1, 1), params.batch, FORWARD, network=READING),
                Pass(crop, params.batch, TRAINING, network=paints),
                Pass(crop, params.batch, FORWARD, content),
                Pass(crop, params.batch, layers=seen),
                Pass(crop, params.batch, network=gram_cost(layers, manifest)),
                preview,
            ),
            before=(Pass(style_size(params, job.sizes["style"], manifest), 1, FORWARD, layers),),
        )
    ]


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
    work,
    complete,
    reads=style_and_content,
    prepare=prepare,
)
