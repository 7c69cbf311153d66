"""Several attributions of one request, with as few passes of the network as they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convlens.errors import InvalidArgument
from convlens.v1 import attribution_pb2
from convlens_server.backends.base import F32, Backend
from convlens_server.quick import quality, targets
from convlens_server.techniques import ATTRIBUTIONS
from convlens_server.techniques.base import Attributed

Requested = Sequence[attribution_pb2.Attribution]


def attribute(
    backend: Backend,
    images: F32,
    requested: Requested,
    scoring: attribution_pb2.Quality | None = None,
) -> Iterator[tuple[str, F32, attribution_pb2.AttributedTarget]]:
    """Each attribution under its name, with what there is to say about it, computed as they are taken.

    Args:
        scoring: how insertion and deletion are scored, nothing left to defaults; None leaves them out.

    Raises:
        InvalidArgument: a target outside its layer's map, before anything is computed; or what only the
            network tells about a technique's parameters.
    """
    resolved = resolve(backend, images, requested)
    for position, (target, item) in enumerate(zip(resolved, requested, strict=True)):
        name = technique_of(item)
        found = apply(backend, images, target, item, f"attributions[{position}]")
        answer = attribution_pb2.AttributedTarget(values=found.values.tolist(), class_indices=target.classes)
        if found.residuals is not None:
            answer.completeness_residuals.extend(found.residuals.tolist())
        if scoring is not None:
            ranking = quality.importance(name, found.attribution)
            scores = quality.score(backend, images, target, ranking, scoring)
            answer.insertion.extend(scores.insertion.tolist())
            answer.deletion.extend(scores.deletion.tolist())
        yield f"{position}.{name}", found.attribution, answer


def resolve(backend: Backend, images: F32, requested: Requested) -> list[targets.Target]:
    """The target of each of the attributions; one forward pass serves all that need one."""
    manifest = backend.stored.manifest
    layers = {
        targets.layer_of(item.target, manifest) for item in requested if targets.needs_forward(item.target)
    }
    values = backend.forward(images, sorted(layers)) if layers else {}
    return [
        targets.resolve(item.target, manifest, len(images), values, f"attributions[{position}].target")
        for position, item in enumerate(requested)
    ]


def apply(
    backend: Backend, images: F32, target: targets.Target, item: attribution_pb2.Attribution, path: str
) -> Attributed:
    """One attribution.

    Raises:
        InvalidArgument: names the field by its path in the request, which begins with `path`.
    """
    name = technique_of(item)
    try:
        return ATTRIBUTIONS[name](backend, images, target, getattr(item, name))
    except InvalidArgument as error:
        here = f"{path}.{name}."
        raise InvalidArgument(here + error.message, field=here + error.field, reason=error.reason) from error


def technique_of(item: attribution_pb2.Attribution) -> str:
    """The name of the technique, which is that of its arm of the oneof."""
    return item.WhichOneof("technique") or ""
