"""Feature visualisation before it is queued: its targets, and the images that stand beside what is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from convlens import wire
from convlens.v1 import inspection_pb2, target_pb2
from convlens_models.graphs.layers import shape_at
from convlens_models.manifest import LOG_PROBABILITIES, ONNX, Layer, Manifest
from convlens_workers.jobs.techniques.base import (
    Preparation,
    Ranking,
    Rows,
    Specification,
    Submission,
    optimisation_cost,
)
from convlens_workers.jobs.techniques.extract_features import dimension

CLASSES: Final = ("class_score", "log_probability")
UNITS: Final = ("channel", "neuron")
PLACE: Final = ("channel", "y", "x")
"""Fields that say where in a layer a neuron is; of a channel, the first alone."""
MOST_EXAMPLES: Final = 1024
"""Examples of one job: they are all in the worker's memory at once."""


def layer_of(target: target_pb2.Target, manifest: Manifest) -> str:
    """The layer that a target is read from."""
    kind = target.WhichOneof("target") or ""
    layers = {"class_score": manifest.output, "log_probability": LOG_PROBABILITIES}
    return layers.get(kind) or str(getattr(target, kind).layer)


def targets_are_given(job: Submission) -> None:
    """Each term of each objective has a target."""
    for path, kind, _ in _targets(job):
        if not kind:
            raise job.refused(path, "nothing", "given")


def classes_are_named(job: Submission) -> None:
    """Targets that are classes say which."""
    for path, kind, target in _targets(job):
        if kind in CLASSES and not target.HasField("index"):
            allowed = "given: there is no picture to predict it from"
            raise job.refused(f"{path}.{kind}.index", "nothing", allowed)


def units_exist(job: Submission) -> None:
    """Channels and neurons are the model's at this size."""
    _check_places(job, partial(_shape, job, job.params.size or job.manifest.input_size), "at this size")


def directions_fit(job: Submission) -> None:
    """A direction has a finite value for each channel, and not all of them are 0."""
    for path, kind, target in _targets(job):
        if kind == "direction":
            field = f"{path}.{kind}.vector"
            vector = wire.from_tensor(target.vector, f"{job.technique}.{field}")
            channels = job.manifest.layer(target.layer).shape[0]
            allowed = f"float32 of shape [{channels}], finite and not all 0"
            if vector.dtype != np.float32 or vector.shape != (channels,):
                raise job.refused(field, f"{vector.dtype} of shape {list(vector.shape)}", allowed)
            if not np.isfinite(vector).all() or not vector.any():
                raise job.refused(field, "other numbers", allowed)


def examples_fit(job: Submission) -> None:
    """The examples of all objectives fit into the worker's memory."""
    params, count = job.params, len(job.params.objectives)
    if params.collection and count * params.examples > MOST_EXAMPLES:
        allowed = f"at most {MOST_EXAMPLES // count} for {count} objectives"
        raise job.refused("examples", params.examples, allowed)


def examples_have_one_term(job: Submission) -> None:
    """Objectives that images are ranked by have one term each."""
    for position, objective in enumerate(job.params.objectives):
        if job.params.collection and len(objective.terms) > 1:
            shown = f"{len(objective.terms)} terms"
            raise job.refused(f"objectives[{position}].terms", shown, "one, where a collection is named")


def examples_have_the_neuron(job: Submission) -> None:
    """Neurons that images are ranked by are in the map, and the map in the features, at the input size."""
    if not job.params.collection:
        return
    _check_places(job, lambda layer: layer.shape, "at the model's input size")
    for path, kind, target in _targets(job):
        if kind == "neuron":
            layer = job.manifest.layer(target.layer)
            dimension(layer, inspection_pb2.POOLING_FLATTEN, f"{job.technique}.{path}.{kind}.layer")


def cost(job: Submission) -> float:
    """All steps on all variants of all objectives."""
    params = job.params
    side = params.size or job.manifest.input_size
    return optimisation_cost(job, params.steps, len(params.objectives) * params.variants * side**2)


def prepare(job: Submission, server: Preparation) -> None:
    """Fill in, for each objective, the images of the collection in which it is largest, strongest first.

    Raises:
        FailedPrecondition: images without features; says which job makes them.
    """
    params = job.params
    if not params.collection:
        return
    del params.dataset_examples[:]
    for objective in params.objectives:
        (term,) = objective.terms
        images, values = zip(*server.strongest(_ranking(term, job.manifest), params.examples), strict=True)
        params.dataset_examples.add(values=values, images=images)


def _ranking(term: Any, manifest: Manifest) -> Ranking:
    """How images are ranked by a term: by the values of its target, times its weight."""
    kind = term.target.WhichOneof("target")
    layer, target = layer_of(term.target, manifest), getattr(term.target, kind)
    pooling, values = RANKINGS[kind]
    shape = (*manifest.layer(layer).shape, 1, 1)[:3]
    return Ranking(layer, pooling, lambda rows: term.weight * values(rows, target, shape))


def _neurons(rows: Rows, target: target_pb2.Neuron, shape: tuple[int, ...]) -> Rows:
    return rows[:, np.ravel_multi_index((target.channel, target.y, target.x), shape)]


RANKINGS: Final[dict[str, tuple[int, Callable[[Rows, Any, tuple[int, ...]], Rows]]]] = {
    "class_score": (inspection_pb2.POOLING_MEAN, lambda rows, target, _: rows[:, target.index]),
    "log_probability": (inspection_pb2.POOLING_MEAN, lambda rows, target, _: rows[:, target.index]),
    "channel": (inspection_pb2.POOLING_MAX, lambda rows, target, _: rows[:, target.channel]),
    "neuron": (inspection_pb2.POOLING_FLATTEN, _neurons),
    "direction": (
        inspection_pb2.POOLING_MEAN,
        lambda rows, target, _: np.asarray(rows @ wire.from_tensor(target.vector, "vector")),
    ),
}
"""By kind of target: how features are pooled, and its value for each row, given the shape of the layer."""


def _targets(job: Submission) -> Iterator[tuple[str, str, Any]]:
    """Path, kind and message of the target of each term."""
    for i, objective in enumerate(job.params.objectives):
        for j, term in enumerate(objective.terms):
            kind = term.target.WhichOneof("target") or ""
            yield f"objectives[{i}].terms[{j}].target", kind, getattr(term.target, kind, None)


def _check_places(job: Submission, shape_of: Callable[[Layer], Sequence[int]], where: str) -> None:
    """Refuse channels and neurons outside their layers' shapes."""
    for path, kind, target in _targets(job):
        if not kind:
            continue
        name = getattr(target, "layer", job.manifest.output)  # Classes are read from the last layer.
        shape = shape_of(job.manifest.layer(name, f"{job.technique}.{path}.{kind}.layer"))
        for place, extent in zip(PLACE if kind in UNITS else (), (*shape, 1, 1), strict=False):
            position = getattr(target, place, 0)
            if position >= extent:
                allowed = f"between 0 and {extent - 1} in {target.layer} {where}"
                raise job.refused(f"{path}.{kind}.{place}", position, allowed)


def _shape(job: Submission, side: int, layer: Layer) -> Sequence[int]:
    """Shape of a layer for pictures of `side` pixels. Raises InvalidArgument where it has none."""
    manifest = job.manifest
    if side == manifest.input_size:
        return layer.shape
    if not manifest.least_side(layer):
        if manifest.architecture == ONNX:
            raise job.refused("size", side, f"{manifest.input_size}, {manifest.why_one_size}")
        return layer.shape  # The module pools to the one size of its head, whatever comes in.
    graph = job.resources.repository.get(manifest.name, manifest.version).forward()
    shape = shape_at(graph, layer.tensor, side, side)
    if shape is None:
        raise job.refused("size", side, f"larger, as {layer.name} has no position at this size")
    return shape


SPECIFICATION: Final = Specification(
    (
        targets_are_given,
        classes_are_named,
        units_exist,
        directions_fit,
        examples_fit,
        examples_have_one_term,
        examples_have_the_neuron,
    ),
    cost,
    prepare=prepare,
)
