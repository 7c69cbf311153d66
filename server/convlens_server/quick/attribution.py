"""The attributions of one request, computed with as few passes of the network as they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convlens.errors import InvalidArgument
from convlens.v1 import attribution_pb2
from convlens_models.attributions import targets
from convlens_models.manifest import Manifest
from convlens_server.backends.base import F32, Backend
from convlens_server.quick import quality
from convlens_server.techniques import ATTRIBUTIONS
from convlens_server.techniques.base import Attributed

Requested = Sequence[attribution_pb2.Attribution]
Request = attribution_pb2.AttributeRequest | attribution_pb2.CheckRandomisationRequest


def attribute(
    backend: Backend,
    images: F32,
    requested: Requested,
    scoring: attribution_pb2.Quality | None = None,
) -> Iterator[tuple[str, F32, attribution_pb2.AttributedTarget]]:
    """Each attribution with its name and its part of the reply, computed when it is asked for.

    Args:
        scoring: how insertion and deletion are scored, nothing left to defaults; None leaves them out.

    Raises:
        InvalidArgument: a target outside its layer's map, before anything is computed; or what only the
            network tells about a technique's parameters.
    """
    resolved = resolve(backend, images, requested)
    for position, (target, item) in enumerate(zip(resolved, requested, strict=True)):
        name = technique_of(item)
        attributed = apply(backend, images, target, item, f"attributions[{position}]")
        reply = attribution_pb2.AttributedTarget(
            values=attributed.values.tolist(), class_indices=target.classes
        )
        if attributed.residuals is not None:
            reply.completeness_residuals.extend(attributed.residuals.tolist())
        if scoring is not None:
            ranking = quality.importance(name, attributed.attribution)
            scores = quality.score(backend, images, target, ranking, scoring)
            reply.insertion.extend(scores.insertion.tolist())
            reply.deletion.extend(scores.deletion.tolist())
        yield f"{position}.{name}", attributed.attribution, reply


def layers_read(request: Request, manifest: Manifest) -> set[str]:
    """The layers that the attributions of a checked request read, named by their targets or techniques."""
    named = {getattr(getattr(item, technique_of(item)), "layer", "") for item in request.attributions}
    return {targets.layer_of(item.target, manifest) for item in request.attributions} | named - {""}


def resolve(backend: Backend, images: F32, requested: Requested) -> list[targets.Target]:
    """The target of each of the attributions; one forward pass serves all that need one."""
    return targets.resolve_all(backend, images, requested, "attributions")


def apply(
    backend: Backend, images: F32, target: targets.Target, item: attribution_pb2.Attribution, path: str
) -> Attributed:
    """Compute one attribution.

    Raises:
        InvalidArgument: names the field by its path in the request, which begins with `path`.
    """
    name = technique_of(item)
    try:
        return ATTRIBUTIONS[name].compute(backend, images, target, getattr(item, name))
    except InvalidArgument as error:
        here = f"{path}.{name}."
        raise InvalidArgument(here + error.message, field=here + error.field, reason=error.reason) from error


def technique_of(item: attribution_pb2.Attribution) -> str:
    """The name of the technique, which is that of its arm of the oneof."""
    return item.WhichOneof("technique") or ""
