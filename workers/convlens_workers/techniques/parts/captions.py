"""What a picture of a feature visualisation shows, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from convlens.v1 import job_pb2
from convlens_models.manifest import Manifest
from convlens_workers.jobs.techniques.feature_visualisation import kind_and_message
from convlens_workers.techniques.base import Task


def caption(task: Task[Any], objective: job_pb2.Objective) -> str:
    """The terms of an objective with their weights, where these are not 1.

    As "tabby (281)" or "features.4:12 - 0.5 conv1:3 of alexnet/2".
    """
    text = ""
    for term in objective.terms:
        sign = ("" if term.weight >= 0 else "-") if not text else (" + " if term.weight >= 0 else " - ")
        size = abs(term.weight)
        text += sign + ("" if size == 1 else f"{size:.4g} ") + _words(task, term)
    return text


def _words(task: Task[Any], term: job_pb2.WeightedTarget) -> str:
    kind, message = kind_and_message(term)
    if not term.HasField("model"):
        return WORDS[kind](message, task.manifest)
    repository, version = task.host.networks.repository, term.model.version
    manifest = repository.get(term.model.name, version if term.model.HasField("version") else None).manifest
    return f"{WORDS[kind](message, manifest)} of {manifest.name}/{manifest.version}"


def _class(target: Any, manifest: Manifest) -> str:
    return f"{manifest.labels[target.index]} ({target.index})"


WORDS: Final[dict[str, Callable[[Any, Manifest], str]]] = {
    "class_score": _class,
    "log_probability": lambda target, manifest: f"log P of {_class(target, manifest)}",
    "neuron": lambda target, _: f"{target.layer}:{target.channel}:{target.y}:{target.x}",
    "channel": lambda target, _: f"{target.layer}:{target.channel}",
    "direction": lambda target, _: f"direction in {target.layer}",
    "caricature": lambda target, _: f"caricature at {target.layer}",
}
"""By kind of term, given its message and network."""
