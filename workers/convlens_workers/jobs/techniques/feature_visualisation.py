"""Feature visualisation before it is queued: its targets, and the images that stand beside what is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from convlens import wire
from convlens.v1 import inspection_pb2, target_pb2
from convlens_models.manifest import LOG_PROBABILITIES, Manifest
from convlens_workers.jobs.techniques.base import (
    Preparation,
    Ranking,
    Rows,
    Specification,
    Submission,
)
from convlens_workers.jobs.techniques.extract_features import dimension
from convlens_workers.jobs.techniques.work import FORWARD, Pass, Steps, gram_cost

CLASSES: Final = ("class_score", "log_probability")
UNITS: Final = ("channel", "neuron")
PLACE: Final = ("channel", "y", "x")
"""Fields that say where in a layer a neuron is; of a channel, the first alone."""
PICTURE: Final = 6_000.0
"""About how many multiply-adds a pixel take as long as the picture of coefficients and its transforms."""
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
    # How large the map is at another size than the model's own, only the network can tell.
    known = PLACE if job.params.size in (0, job.manifest.input_size) else PLACE[:1]
    _check_places(job, known, "at this size")


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
    _check_places(job, PLACE, "at the model's input size")
    for path, kind, target in _targets(job):
        if kind == "neuron":
            layer = job.manifest.layer(target.layer)
            dimension(layer, inspection_pb2.POOLING_FLATTEN, f"{job.technique}.{path}.{kind}.layer")


def work(job: Submission) -> Iterator[Steps]:
    """The steps of one objective after the other, of all variants at once; then all values, and examples."""
    params, manifest = job.params, job.manifest
    side, variants = params.size or manifest.input_size, params.variants
    size, whole = (side, side), (manifest.input_size, manifest.input_size)
    examples = len(params.dataset_examples[0].images) if params.dataset_examples else params.examples
    for objective in params.objectives:
        layers = tuple(layer_of(term.target, manifest) for term in objective.terms)
        passes = [Pass(size, variants, layers=layers), Pass(size, variants, network=PICTURE)]
        if variants > 1 and params.diversity and len(manifest.layer(layers[0]).shape) == 3:
            passes.append(Pass(size, variants, network=gram_cost(layers[:1], manifest)))
        yield Steps(params.steps, tuple(passes))
        values = Pass(size, variants, FORWARD, layers)
        shown = Pass(whole, examples if params.collection else 0, FORWARD, layers)
        yield Steps(0, before=(values, shown))


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


def _check_places(job: Submission, known: Sequence[str], where: str) -> None:
    """Refuse channels and neurons outside their layers' shapes, as far as these are `known`."""
    for path, kind, target in _targets(job):
        if kind in UNITS:
            shape = job.manifest.layer(target.layer, f"{job.technique}.{path}.{kind}.layer").shape
            for name, extent in zip(known, (*shape, 1, 1), strict=False):
                position = getattr(target, name, 0)
                if position >= extent:
                    allowed = f"between 0 and {extent - 1} in {target.layer} {where}"
                    raise job.refused(f"{path}.{kind}.{name}", position, allowed)


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
    work,
    prepare=prepare,
)
