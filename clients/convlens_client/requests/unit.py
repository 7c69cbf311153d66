"""Single units: what they look for, and where they look."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from convlens.v1 import job_pb2, unit_pb2, unit_pb2_grpc
from convlens.v1.image_pb2 import Image
from convlens_client.calls import Method, Rpc, Tensors
from convlens_client.contract import takes
from convlens_client.from_proto import field, from_proto
from convlens_client.images import Images, ResizeLike, to_images
from convlens_client.requests.job import Fields, technique
from convlens_client.requests.model import model_ref
from convlens_client.requests.parts import in_parts
from convlens_client.results import Array, ReceptiveField, UnitPattern

_Units = unit_pb2_grpc.UnitServiceStub


def unit_patterns(
    images: Images, layer: str, channel: int, *, model: str = "", resize: ResizeLike | None = None
) -> Rpc[tuple[UnitPattern, ...]]:
    """What excites a channel of a layer in each image: guided backprop from where it is strongest."""

    def ask(some: Sequence[Image], _: slice) -> Rpc[tuple[UnitPattern, ...]]:
        request = unit_pb2.GetUnitPatternsRequest(
            model=model_ref(model), images=some, layer=layer, channel=channel
        )
        return Tensors(Method(_Units, "GetUnitPatterns"), request, _patterns)

    return in_parts(
        unit_pb2.GetUnitPatternsRequest,
        to_images(images, resize),
        ask,
        lambda answers: tuple(itertools.chain.from_iterable(answers)),
    )


@takes({"": unit_pb2.Discrepancy.DESCRIPTOR})
def discrepancy_maps(
    images: Images,
    layer: str,
    channel: int,
    *,
    model: str = "",
    resize: ResizeLike | None = None,
    **parameters: Any,
) -> Rpc[ReceptiveField]:
    """Where a channel of a layer looks: occludes up to 16 images by patches of random pixels.

    A deep layer takes thousands of passes an image: give the client a longer timeout with `within`.
    """
    request = unit_pb2.GetDiscrepancyMapsRequest(
        model=model_ref(model),
        images=to_images(images, resize),
        layer=layer,
        channel=channel,
        discrepancy=unit_pb2.Discrepancy(**parameters),
    )
    return Tensors(Method(_Units, "GetDiscrepancyMaps"), request, _field)


@technique(job_pb2.MeasureReceptiveField, without=["images"])
def measure_receptive_field(collection: str, layer: str, channel: int, **parameters: Any) -> Fields:
    """Queues `discrepancy_maps` of the `k` images of a collection that excite a channel most (10 by default).

    The collection needs features of the layer with pooling "max". The artifacts are those of
    `convlens.v1.MeasureReceptiveField`: "field", "maps", "images", "values", "positions", "sizes".
    """
    return {"discrepancy": unit_pb2.Discrepancy()}


def _patterns(head: Any, tensors: dict[str, Array]) -> tuple[UnitPattern, ...]:
    return tuple(
        UnitPattern(from_proto(hit), tensors[f"{i}.pattern"], tensors[f"{i}.crop"])
        for i, hit in enumerate(head.hits)
    )


def _field(head: Any, tensors: dict[str, Array]) -> ReceptiveField:
    hits = field("hits")(head)
    return ReceptiveField(hits, head.theoretical_size, head.empirical_size, **tensors)
