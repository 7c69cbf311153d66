"""Dataset examples: the images of a collection that excite what a feature visualisation shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import inspection_pb2, job_pb2, target_pb2
from convlens_models.manifest import LOG_PROBABILITIES, Manifest
from convlens_server.backends.base import F32
from convlens_server.collections.features import Shards, Table
from convlens_server.collections.top_activations import strongest_rows
from convlens_workers.collections import FeatureSet
from convlens_workers.collections.pooling import dimension

PATH: Final = "feature_visualisation"
MOST: Final = 1024
"""Examples of one job: they are all in the worker's memory at once."""


class Ranking(NamedTuple):
    """A way to rank images: by the value of a target, from the rows (n, D) of the features of its layer."""

    pooling: int
    value: Callable[[F32], F32]


def select_examples(
    shards: Shards, params: job_pb2.FeatureVisualisation, manifest: Manifest, order: Sequence[str]
) -> None:
    """Fill in, for each objective, the images in which it is largest, strongest first; blocks.

    The objectives have passed `job_checks`.

    Raises:
        InvalidArgument: an objective of several terms, a neuron that the model does not have at its own input
            size, features that would be too long, or too many examples.
        FailedPrecondition: images without features; says which job makes them.
    """
    if len(params.objectives) * params.examples > MOST:
        allowed = f"at most {MOST // len(params.objectives)} for {len(params.objectives)} objectives"
        raise InvalidArgument.of(f"{PATH}.examples", params.examples, allowed)
    del params.dataset_examples[:]
    for position, objective in enumerate(params.objectives):
        path = f"{PATH}.objectives[{position}].terms"
        if len(objective.terms) > 1:
            raise InvalidArgument.of(
                path, f"{len(objective.terms)} terms", "one, where a collection is named"
            )
        (term,) = objective.terms
        layer, ranking = rank(term.target, manifest, f"{path}[0].target")
        table = Table(shards, params.collection, FeatureSet(manifest.digest, layer, ranking.pooling), order)
        table.check()
        weight = term.weight

        def value(features: Any, ranking: Ranking = ranking, weight: float = weight) -> Any:
            return weight * ranking.value(features.values)[:, None]

        rows = strongest_rows(table, value, params.examples)
        params.dataset_examples.add(values=rows[:, 1], images=[order[int(image)] for image in rows[:, 0]])


def rank(target: target_pb2.Target, manifest: Manifest, path: str) -> tuple[str, Ranking]:
    """The layer whose features tell the value of `target`, and how; `path` is the target's."""
    kind = target.WhichOneof("target") or ""
    wanted = getattr(target, kind)
    layer = {"class_score": manifest.output, "log_probability": LOG_PROBABILITIES}.get(kind) or wanted.layer
    return layer, RANKINGS[kind](wanted, manifest, layer, f"{path}.{kind}")


def _class(wanted: target_pb2.ClassTarget, _manifest: Manifest, _layer: str, _path: str) -> Ranking:
    return Ranking(inspection_pb2.POOLING_MEAN, lambda rows: rows[:, wanted.index])


def _channel(wanted: target_pb2.ChannelTarget, _manifest: Manifest, _layer: str, _path: str) -> Ranking:
    return Ranking(inspection_pb2.POOLING_MAX, lambda rows: rows[:, wanted.channel])


def _neuron(wanted: target_pb2.Neuron, manifest: Manifest, layer: str, path: str) -> Ranking:
    shape = (*manifest.layer(layer).shape, 1, 1)[:3]
    place = (wanted.channel, wanted.y, wanted.x)
    for position, extent, name in zip(place, shape, ("channel", "y", "x"), strict=True):
        if position >= extent:  # Pictures of another size may have maps that are larger.
            allowed = f"between 0 and {extent - 1} in {layer} at the model's input size"
            raise InvalidArgument.of(f"{path}.{name}", position, allowed)
    dimension(manifest.layer(layer), inspection_pb2.POOLING_FLATTEN, f"{path}.layer")
    column = int(np.ravel_multi_index(place, shape))
    return Ranking(inspection_pb2.POOLING_FLATTEN, lambda rows: rows[:, column])


def _direction(wanted: target_pb2.DirectionTarget, _manifest: Manifest, _layer: str, path: str) -> Ranking:
    vector = wire.from_tensor(wanted.vector, f"{path}.vector")
    return Ranking(inspection_pb2.POOLING_MEAN, lambda rows: np.asarray(rows @ vector))


RANKINGS: Final[dict[str, Callable[[Any, Manifest, str, str], Ranking]]] = {
    "class_score": _class,
    "log_probability": _class,
    "neuron": _neuron,
    "channel": _channel,
    "direction": _direction,
}
