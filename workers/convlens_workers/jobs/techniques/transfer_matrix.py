"""Transfer matrices before they are queued: the models, which must share their classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from convlens.v1 import model_pb2
from convlens_models.manifest import Manifest
from convlens_workers.jobs.pictures import Size
from convlens_workers.jobs.techniques.base import (
    IMAGES_ALIKE,
    LABELS,
    Specification,
    Submission,
    batch,
    classes_exclude_each_other,
)
from convlens_workers.jobs.techniques.work import FORWARD, Pass, Steps

MOST: Final = 16
"""Models beside the request's own, as the field's bounds have it."""


def scaled_size(size: Size, own: Manifest, other: Manifest) -> Size:
    """The size at which another model gets pictures of `size`, scaled by the ratio of the two input sizes."""
    ratio = other.input_size / own.input_size
    return round(size[0] * ratio), round(size[1] * ratio)


def classes_are_shared(job: Submission) -> None:
    """Each model has the classes of the request's."""
    for field, other in _models(job):
        if not _alike(other, job.manifest):
            raise job.refused(field, other.name, f"a model with the classes of {job.manifest.name}")


def models_take_the_pictures(job: Submission) -> None:
    """Models that accept one size alone get the pictures at that size."""
    for field, other in _models(job):
        side, (height, width) = other.input_size, scaled_size(job.sizes["images[0]"], job.manifest, other)
        if not other.dynamic_size and (height, width) != (side, side):
            shown = f"{other.name}, for pictures of {width} x {height} pixels"
            raise job.refused(field, shown, f"pictures of {side} x {side}, the one size that it accepts")


def complete(job: Submission) -> None:
    """Fill in the models' versions; where none are named, all models with the classes of the request's.

    Raises:
        InvalidArgument: these are more than a matrix may have.
        NotFound: no such model.
    """
    own, repository = job.manifest, job.resources.repository
    models = [other for _, other in _models(job)] or [
        other
        for other in repository.list()
        if _alike(other, own) and (other.name, other.version) != (own.name, own.version)
    ]
    if len(models) > MOST:
        raise job.refused("models", f"nothing, which is {len(models)} models", f"at most {MOST}, by name")
    del job.params.models[:]
    job.params.models.extend(model_pb2.ModelRef(name=other.name, version=other.version) for other in models)


def work(job: Submission) -> list[Steps]:
    """An attack on each model, the request's own among them; and what all models say of it and of noise."""
    own, (count, size) = job.manifest, batch(job)
    seen = [(size, own), *((scaled_size(size, own, other), other) for _, other in _models(job))]
    asked = tuple(Pass(of, count, FORWARD, network=network) for of, network in seen)
    return [
        Steps(0, before=asked),
        *(Steps(job.params.steps, (Pass(of, count, network=one),), before=asked * 2) for of, one in seen),
    ]


def _models(job: Submission) -> Iterator[tuple[str, Manifest]]:
    """Path and manifest of each model that is named."""
    for place, ref in enumerate(job.params.models):
        version = ref.version if ref.HasField("version") else None
        yield f"models[{place}]", job.resources.repository.get(ref.name, version).manifest


def _alike(one: Manifest, other: Manifest) -> bool:
    return (one.task, one.labels, one.independent) == (other.task, other.labels, other.independent)


SPECIFICATION: Final = Specification(
    (classes_exclude_each_other, IMAGES_ALIKE, LABELS, classes_are_shared, models_take_the_pictures),
    work,
    complete,
)
