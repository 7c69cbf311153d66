"""Attributions of thousands of passes before they are queued."""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np

from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2
from convlens_models.attributions import PERTURBATIONS
from convlens_models.attributions.perturbation import FORWARD as ONE_WAY
from convlens_models.attributions.perturbation import Perturbation
from convlens_models.attributions.targets import INSIDE, layer_of, needs_forward, resolve
from convlens_models.graphs.layers import shape_at
from convlens_models.manifest import Manifest
from convlens_workers.jobs.pictures import Size
from convlens_workers.jobs.techniques.base import IMAGES_ALIKE, Specification, Submission, batch
from convlens_workers.jobs.techniques.work import FORWARD, GRADIENT, Pass, Steps


class Asked(NamedTuple):
    """One of the attributions: its place, its technique's name, class and parameters, its target's layer."""

    position: int
    name: str
    kind: type[Perturbation]
    params: Any
    layer: str


def asked(params: job_pb2.AttributionMaps, manifest: Manifest) -> list[Asked]:
    """The attributions that are sums over perturbed copies, in order."""
    named = (
        (place, item, item.WhichOneof("technique") or "") for place, item in enumerate(params.attributions)
    )
    return [
        Asked(place, name, PERTURBATIONS[name], getattr(item, name), layer_of(item.target, manifest))
        for place, item, name in named
        if name in PERTURBATIONS
    ]


def techniques_take_many_passes(job: Submission) -> None:
    """All techniques are sums over perturbed copies: the others are answered by a quick call."""
    for position, item in enumerate(job.params.attributions):
        name = item.WhichOneof("technique")
        if name not in PERTURBATIONS:
            allowed = f"{', '.join(PERTURBATIONS)}; Attribute answers {name} at once"
            raise job.refused(f"attributions[{position}]", name, allowed)


def copies_fit(job: Submission) -> None:
    """The parameters fit the size of the images."""
    _, size = batch(job)
    for item in asked(job.params, job.manifest):
        try:
            item.kind.check(item.params, size)
        except InvalidArgument as error:
            here = f"{job.technique}.attributions[{item.position}].{item.name}."
            raise InvalidArgument(here + error.message, field=here + error.field) from error


def targets_exist(job: Submission) -> None:
    """Neurons, channels and directions are those of their layers at this size."""
    _, (height, width) = batch(job)
    graph = job.resources.repository.get(job.manifest.name, job.manifest.version).forward()
    for position, item in enumerate(job.params.attributions):
        if item.target.WhichOneof("target") not in INSIDE:
            continue
        layer = job.manifest.layer(layer_of(item.target, job.manifest))
        shape = shape_at(graph, layer.tensor, height, width) or layer.shape
        nothing = {layer.name: np.zeros((1, *shape), np.float32)}
        resolve(item.target, job.manifest, 1, nothing, f"{job.technique}.attributions[{position}].target")


def work(job: Submission) -> list[Steps]:
    """A step a batch of copies, image by image; before them the targets and the images' own values."""
    (count, size), params = batch(job), job.params
    found = asked(params, job.manifest)
    unknown = {
        layer_of(item.target, job.manifest) for item in params.attributions if needs_forward(item.target)
    }
    beside = [Pass(size, count * item.kind.extra, FORWARD, (item.layer,)) for item in found]
    if unknown:
        beside.append(Pass(size, count, FORWARD, tuple(sorted(unknown))))
    return [Steps(0, before=tuple(beside)), *(steps for item in found for steps in _sums(item, size) * count)]


def _sums(item: Asked, size: Size) -> list[Steps]:
    """The batches of the copies of one image."""
    way = FORWARD if item.kind.way == ONE_WAY else GRADIENT
    lengths = [part.stop - part.start for part in item.kind.parts(item.params, size)]
    return [
        Steps(len(list(alike)), (Pass(size, length, way, (item.layer,)),))
        for length, alike in groupby(lengths)
    ]


def reads(params: job_pb2.AttributionMaps, manifest: Manifest) -> list[str]:
    """The layers that are read: those of the targets."""
    return [layer_of(item.target, manifest) for item in params.attributions]


SPECIFICATION: Final = Specification(
    (IMAGES_ALIKE, techniques_take_many_passes, copies_fit, targets_exist),
    work,
    reads=reads,
)
