"""Single units: what they look for, and where they look."""

from __future__ import annotations

from typing import Any

from convlens.v1 import job_pb2, unit_pb2, unit_pb2_grpc
from convlens_client.calls import Call, Method, Tensors
from convlens_client.freezing import freeze
from convlens_client.images import Images, ResizeLike, to_images
from convlens_client.requests.job import submit
from convlens_client.requests.model import model_ref
from convlens_client.results import Array, ReceptiveField, Snapshot, UnitPattern

_Units = unit_pb2_grpc.UnitServiceStub


def unit_patterns(
    images: Images, layer: str, channel: int, *, model: str = "", resize: ResizeLike | None = None
) -> Call[tuple[UnitPattern, ...]]:
    """What excites a channel of a layer in each image: guided backprop from where it is strongest."""
    request = unit_pb2.GetUnitPatternsRequest(
        model=model_ref(model), images=to_images(images, resize), layer=layer, channel=channel
    )
    return Tensors(Method(_Units, "GetUnitPatterns"), request, _patterns)


def discrepancy_maps(
    images: Images,
    layer: str,
    channel: int,
    *,
    patch: int | None = None,
    stride: int | None = None,
    threshold: float | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Call[ReceptiveField]:
    """Where a channel of a layer looks: occludes up to 16 images by patches of random pixels.

    A deep layer takes thousands of passes an image: give the client a longer timeout with `within`.
    """
    request = unit_pb2.GetDiscrepancyMapsRequest(
        model=model_ref(model),
        images=to_images(images, resize),
        layer=layer,
        channel=channel,
        discrepancy=unit_pb2.Discrepancy(patch=patch, stride=stride, threshold=threshold, seed=seed),
    )
    return Tensors(Method(_Units, "GetDiscrepancyMaps"), request, _field)


def measure_receptive_field(
    collection: str,
    layer: str,
    channel: int,
    *,
    k: int | None = None,
    patch: int | None = None,
    stride: int | None = None,
    threshold: float | None = None,
    seed: int | None = None,
    model: str = "",
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues `discrepancy_maps` of the `k` images of a collection that excite a channel most (10 by default).

    The collection needs features of the layer with pooling "max". The artifacts are those of
    `convlens.v1.MeasureReceptiveField`: "field", "maps", "images", "values", "positions", "sizes".
    """
    technique = job_pb2.MeasureReceptiveField(
        collection=collection,
        layer=layer,
        channel=channel,
        k=k,
        discrepancy=unit_pb2.Discrepancy(patch=patch, stride=stride, threshold=threshold),
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


def _patterns(head: Any, tensors: dict[str, Array]) -> tuple[UnitPattern, ...]:
    return tuple(
        UnitPattern(freeze(hit), tensors[f"{i}.pattern"], tensors[f"{i}.crop"])
        for i, hit in enumerate(head.hits)
    )


def _field(head: Any, tensors: dict[str, Array]) -> ReceptiveField:
    hits = tuple(freeze(hit) for hit in head.hits)
    return ReceptiveField(hits, head.theoretical_size, head.empirical_size, **tensors)
