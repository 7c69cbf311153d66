"""Feature visualisation before it is queued: its targets, and the images that stand beside what is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np

from convlens import wire
from convlens.v1 import inspection_pb2, job_pb2, model_pb2, target_pb2
from convlens_models.graphs.layers import shape_at
from convlens_models.manifest import LOG_PROBABILITIES, ONNX, Layer, Manifest
from convlens_workers.jobs.pictures import Size
from convlens_workers.jobs.techniques.base import (
    Preparation,
    Ranking,
    Rows,
    Specification,
    Submission,
)
from convlens_workers.jobs.techniques.extract_features import dimension
from convlens_workers.jobs.techniques.transfer_matrix import scaled_size
from convlens_workers.jobs.techniques.work import FORWARD, GRADIENT, Pass, Steps, gram_cost

CLASSES: Final = ("class_score", "log_probability")
UNITS: Final = ("channel", "neuron")
CARICATURE: Final = "caricature"
PLACE: Final = ("channel", "y", "x")
"""Fields that say where in a layer a neuron is; of a channel, the first alone."""
PICTURE: Final = 6_000.0
"""About how many multiply-adds a pixel take as long as the picture of coefficients and its transforms."""
ONE_SIZE: Final = ("head; targets in layers before it take any", "graph")
"""What has one size: of built-in networks, and of those that came as ONNX files."""
MOST_EXAMPLES: Final = 1024
"""Examples of one job: they are all in the worker's memory at once."""


def kind_and_message(term: job_pb2.WeightedTarget) -> tuple[str, Any]:
    """What a term is, "caricature" or a kind of target, and its message; "" and None where it is nothing."""
    if term.HasField(CARICATURE):
        return CARICATURE, term.caricature
    kind = term.target.WhichOneof("target") or ""
    return kind, getattr(term.target, kind, None)


def layer_of(term: job_pb2.WeightedTarget, manifest: Manifest) -> str:
    """The layer that a term is read from, in the network of `manifest`."""
    kind, message = kind_and_message(term)
    layers = {"class_score": manifest.output, "log_probability": LOG_PROBABILITIES}
    return layers.get(kind) or str(message.layer)


def picture_size(params: job_pb2.FeatureVisualisation, manifest: Manifest) -> Size:
    """Height and width of the pictures in pixels."""
    side = params.size or manifest.input_size
    return params.height or side, params.width or side


def reads(params: job_pb2.FeatureVisualisation, manifest: Manifest) -> list[str]:
    """The layers of the request's own network that objectives are read from."""
    named = (
        term for objective in params.objectives for term in objective.terms if not term.HasField("model")
    )
    return [layer_of(term, manifest) for term in named if kind_and_message(term)[0]]


class Asked(NamedTuple):
    """A term: its path, what it is, and the network that it is read from.

    Attributes:
        path: as "objectives[0].terms[1]".
        field: path of `message`.
        kind: "caricature", a kind of target, or "" where there is neither.
        message: of the target or caricature.
        term: that it is.
        manifest: of its network.
    """

    path: str
    field: str
    kind: str
    message: Any
    term: job_pb2.WeightedTarget
    manifest: Manifest

    @property
    def layer(self) -> str:
        """The layer that it is read from."""
        return layer_of(self.term, self.manifest)


def targets_are_given(job: Submission) -> None:
    """Each term of each objective has a target or a caricature."""
    for item in _asked(job):
        if not item.kind:
            raise job.refused(f"{item.path}.target", "nothing", "given, or a caricature in its place")
        if item.term.HasField("target") and item.term.HasField(CARICATURE):
            raise job.refused(item.field, "given with a target", "left out, or the target")


def other_models_are_classifiers(job: Submission) -> None:
    """Networks beside the request's are classifiers, which have layers and classes of these names."""
    for item in _asked(job):
        if not item.term.HasField("model"):
            continue
        if item.manifest.task != "classification":
            shown, allowed = item.manifest.name, "a network for classification"
            raise job.refused(f"{item.path}.model", shown, allowed)
        if item.kind and item.kind not in CLASSES:
            item.manifest.layer(item.message.layer, f"{job.technique}.{item.field}.layer")
        last = len(item.manifest.labels) - 1
        if item.kind in CLASSES and item.message.index > last:
            allowed = f"between 0 and {last}, the last class of {item.manifest.name}"
            raise job.refused(f"{item.field}.index", item.message.index, allowed)


def size_is_said_once(job: Submission) -> None:
    """The side of a square, or height and width."""
    params = job.params
    for name in ("height", "width"):
        if params.HasField("size") and params.HasField(name):
            raise job.refused(name, getattr(params, name), f"left out: size = {params.size} says it")


def networks_take_the_size(job: Submission) -> None:
    """Each network that is read takes pictures of this size; a head that has one keeps to it."""
    params = job.params
    said = next((name for name in ("height", "width", "size") if params.HasField(name)), "size")
    for item in _asked(job):
        own = not item.term.HasField("model")
        known = item.manifest if own else item.manifest.read_at([item.layer] if item.kind else [])
        height, width = _seen_at(job, item.manifest)
        side, field = known.input_size, said if own else f"{item.path}.model"
        if not known.dynamic_size and (height, width) != (side, side):
            allowed = f"{side} x {side}, the one size of its {ONE_SIZE[known.architecture == ONNX]}"
        elif min(height, width) < known.min_size:
            allowed = f"at least {known.min_size} pixels a side"
        else:
            continue
        raise job.refused(field, f"{height} x {width} pixels for {known.name}", allowed)


def pixels_are_only_shifted(job: Submission) -> None:
    """The plain way knows no transform but shifts."""
    transforms = job.params.transforms
    for name in ("pad", "scale", "rotate"):
        if job.params.parametrisation == job_pb2.PARAMETRISATION_PIXELS and getattr(transforms, name):
            allowed = "0 or left out: PIXELS only shifts"
            raise job.refused(f"transforms.{name}", getattr(transforms, name), allowed)


def classes_are_named(job: Submission) -> None:
    """Targets that are classes say which."""
    for item in _asked(job):
        if item.kind in CLASSES and not item.message.HasField("index"):
            allowed = "given: there is no picture to predict it from"
            raise job.refused(f"{item.field}.index", "nothing", allowed)


def units_exist(job: Submission) -> None:
    """Channels and neurons are the model's at this size."""
    _check_places(job, "at this size")


def directions_fit(job: Submission) -> None:
    """A direction has a finite value for each channel, and not all of them are 0."""
    for item in _asked(job):
        if item.kind == "direction":
            field = f"{item.field}.vector"
            vector = wire.from_tensor(item.message.vector, f"{job.technique}.{field}")
            channels = item.manifest.layer(item.layer).shape[0]
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


def examples_can_be_ranked(job: Submission) -> None:
    """Objectives that images are ranked by are one target each, of the request's model."""
    params = job.params
    for item in _asked(job) if params.collection else ():
        if item.kind == CARICATURE:
            raise job.refused(item.field, "given", "left out, where a collection is named")
        if item.term.HasField("model"):
            raise job.refused(
                f"{item.path}.model", item.manifest.name, "left out, where a collection is named"
            )
    for position, objective in enumerate(params.objectives):
        if params.collection and len(objective.terms) > 1:
            shown = f"{len(objective.terms)} terms"
            raise job.refused(f"objectives[{position}].terms", shown, "one, where a collection is named")


def examples_have_the_neuron(job: Submission) -> None:
    """Neurons that images are ranked by are in the map, and the map in the features, at the input size."""
    if not job.params.collection:
        return
    _check_places(job, "at the model's input size", at_input_size=True)
    for item in _asked(job):
        if item.kind == "neuron":
            layer = job.manifest.layer(item.layer)
            dimension(layer, inspection_pb2.POOLING_FLATTEN, f"{job.technique}.{item.field}.layer")


def complete(job: Submission) -> None:
    """Fill in the versions of networks beside the request's. Raises NotFound for those that are not there."""
    for item in _asked(job):
        if item.term.HasField("model"):
            version = model_pb2.ModelRef(name=item.manifest.name, version=item.manifest.version)
            item.term.model.CopyFrom(version)


def work(job: Submission) -> Iterator[Steps]:
    """The steps of one objective after the other, of all variants at once; then all values, and examples."""
    params, own = job.params, job.manifest
    size, variants, whole = picture_size(params, own), params.variants, (own.input_size, own.input_size)
    examples = len(params.dataset_examples[0].images) if params.dataset_examples else params.examples
    for _, terms in groupby(_asked(job), lambda item: item.path.partition(".")[0]):
        asked = list(terms)
        layer, first = asked[0].layer, asked[0].manifest
        passes = [*_looks(job, asked, GRADIENT), Pass(size, variants, network=PICTURE)]
        if variants > 1 and params.diversity and len(first.layer(layer).shape) == 3:
            passes.append(Pass(_seen_at(job, first), variants, network=gram_cost([layer], first)))
        yield Steps(params.steps, tuple(passes))
        shown = Pass(whole, examples if params.collection else 0, FORWARD, (layer,))
        yield Steps(0, before=(*_looks(job, asked, FORWARD), shown))


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
    (kind, target), layer = kind_and_message(term), layer_of(term, manifest)
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


def _asked(job: Submission) -> Iterator[Asked]:
    """Each term of each objective."""
    for i, objective in enumerate(job.params.objectives):
        for j, term in enumerate(objective.terms):
            path, (kind, message) = f"objectives[{i}].terms[{j}]", kind_and_message(term)
            field = f"{path}.{kind}" if kind == CARICATURE else f"{path}.target.{kind}"
            yield Asked(path, field, kind, message, term, _manifest(job, term))


def _manifest(job: Submission, term: job_pb2.WeightedTarget) -> Manifest:
    """What is known of the network that a term is read from."""
    if not term.HasField("model"):
        return job.manifest
    version = term.model.version if term.model.HasField("version") else None
    return job.resources.repository.get(term.model.name, version).manifest


def _looks(job: Submission, asked: Sequence[Asked], way: int) -> Iterator[Pass]:
    """What the networks of an objective's terms see: all variants, each network at its own size.

    And what caricatures compare with, which goes the way there alone.
    """
    networks: dict[tuple[str, int], list[Asked]] = {}
    for item in asked:
        networks.setdefault((item.manifest.name, item.manifest.version), []).append(item)
    for items in networks.values():
        manifest, layers = items[0].manifest, tuple(item.layer for item in items)
        yield Pass(_seen_at(job, manifest), job.params.variants, way, layers, manifest)
    for item in asked:
        if item.kind == CARICATURE:
            yield Pass(_seen_at(job, item.manifest), 1, FORWARD, (item.layer,), item.manifest)


def _seen_at(job: Submission, manifest: Manifest) -> Size:
    """The size at which a network sees the pictures."""
    return scaled_size(picture_size(job.params, job.manifest), job.manifest, manifest)


def _check_places(job: Submission, where: str, at_input_size: bool = False) -> None:
    """Refuse channels and neurons outside their layers' shapes."""
    for item in _asked(job):
        if item.kind in UNITS:
            layer = item.manifest.layer(item.layer, f"{job.technique}.{item.field}.layer")
            shape = layer.shape if at_input_size else _shape(job, item.manifest, layer)
            for name, extent in zip(PLACE, (*shape, 1, 1), strict=False):
                position = getattr(item.message, name, 0)
                if position >= extent:
                    allowed = f"between 0 and {extent - 1} in {item.layer} {where}"
                    raise job.refused(f"{item.field}.{name}", position, allowed)


def _shape(job: Submission, manifest: Manifest, layer: Layer) -> Sequence[int]:
    """Shape of a layer at the size at which its network sees the pictures. Raises InvalidArgument."""
    height, width = _seen_at(job, manifest)
    if (height, width) == (manifest.input_size, manifest.input_size) or not manifest.least_side(layer):
        return layer.shape  # Where it takes one size: the module pools to it, whatever comes in.
    graph = job.resources.repository.get(manifest.name, manifest.version).forward()
    shape = shape_at(graph, layer.tensor, height, width)
    if shape is None:
        shown = f"{height} x {width} pixels for {manifest.name}"
        raise job.refused("size", shown, f"larger, as {layer.name} has no position at this size")
    return shape


SPECIFICATION: Final = Specification(
    (
        targets_are_given,
        other_models_are_classifiers,
        classes_are_named,
        units_exist,
        directions_fit,
        size_is_said_once,
        networks_take_the_size,
        pixels_are_only_shifted,
        examples_fit,
        examples_can_be_ranked,
        examples_have_the_neuron,
    ),
    work,
    complete,
    prepare,
    reads=reads,
    grows=lambda params: ("steps",) if len(params.objectives) == 1 else (),
)
