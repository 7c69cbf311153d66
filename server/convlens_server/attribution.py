"""Several attributions of one request, with as few passes of the network as they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

from convlens.v1 import attribution_pb2
from convlens_server import targets
from convlens_server.engines.base import F32, Engine
from convlens_server.techniques import ATTRIBUTIONS
from convlens_server.techniques.base import Attributed


def attribute(
    engine: Engine, images: F32, requested: Sequence[attribution_pb2.Attribution]
) -> tuple[attribution_pb2.AttributeResult, Iterator[tuple[str, F32]]]:
    """What each target is and is worth, and the attributions under their names, computed as they are taken.

    One forward pass serves all targets; a single target whose class is given needs none, as its value comes
    with its gradient.

    Raises:
        InvalidArgument: a neuron outside its layer's map.
    """
    values = _values(engine, images, requested)
    aims = [
        targets.resolve(
            item.target, engine.stored.manifest, len(images), values, f"attributions[{position}].target"
        )
        for position, item in enumerate(requested)
    ]
    attributed: Iterator[Attributed] = map(partial(_apply, engine, images), aims, requested)
    if values:
        worth = [aim.value(values[aim.layer]) for aim in aims]
    else:
        first = next(attributed)
        worth, attributed = [first.values], chain([first])
    result = attribution_pb2.AttributeResult(
        targets=[
            attribution_pb2.AttributedTarget(values=value.tolist(), class_indices=aim.classes)
            for value, aim in zip(worth, aims, strict=True)
        ]
    )
    names = (f"{position}.{_name(item)}" for position, item in enumerate(requested))
    return result, ((name, found.attribution) for name, found in zip(names, attributed, strict=True))


def _values(engine: Engine, images: F32, requested: Sequence[attribution_pb2.Attribution]) -> targets.Values:
    """The values of the layers that the targets are read from; nothing where no pass is needed for them."""
    layers = {
        targets.layer_of(item.target, engine.stored.manifest)
        for item in requested
        if len(requested) > 1 or targets.needs_forward(item.target)
    }
    return engine.forward(images, sorted(layers)) if layers else {}


def _apply(engine: Engine, images: F32, aim: targets.Aim, item: attribution_pb2.Attribution) -> Attributed:
    return ATTRIBUTIONS[_name(item)](engine, images, aim, getattr(item, _name(item)))


def _name(item: attribution_pb2.Attribution) -> str:
    return item.WhichOneof("technique") or ""
