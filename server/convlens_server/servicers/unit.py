"""convlens.v1.UnitService."""

from __future__ import annotations

from typing import Any

from convlens.v1 import unit_pb2, unit_pb2_grpc
from convlens_models.measures.receptive_field import theoretical_size
from convlens_server.quick.inference_service import InferenceService, Replies, Streamed, parts
from convlens_server.quick.units import locate
from convlens_server.serving.validation import validate
from convlens_server.techniques.discrepancy import discrepancy
from convlens_server.techniques.unit_patterns import unit_patterns


class UnitServicer(unit_pb2_grpc.UnitServiceServicer):
    """What single units look for, and where they look."""

    def __init__(self, lane: InferenceService) -> None:
        self._lane = lane

    async def GetUnitPatterns(  # noqa: N802
        self, request: unit_pb2.GetUnitPatternsRequest, context: Any
    ) -> Streamed:
        """What excites a unit in each image."""
        async for reply in self._lane.stream(self._patterns, request):
            yield reply

    async def GetDiscrepancyMaps(  # noqa: N802
        self, request: unit_pb2.GetDiscrepancyMapsRequest, context: Any
    ) -> Streamed:
        """Where a unit looks."""
        async for reply in self._lane.stream(self._discrepancy, request):
            yield reply

    def _patterns(self, request: unit_pb2.GetUnitPatternsRequest) -> Replies:
        request, backend = self._lane.admit(request)
        images = self._lane.batch(request.images, backend)
        found = unit_patterns(backend, images, request.layer, request.channel)
        result = unit_pb2.UnitPatternsResult(hits=[item.hit for item in found])
        yield unit_pb2.GetUnitPatternsResponse(result=result)
        tensors = {
            f"{position}.{name}": tensor
            for position, item in enumerate(found)
            for name, tensor in (("pattern", item.pattern), ("crop", item.crop))
        }
        yield parts(unit_pb2.GetUnitPatternsResponse, tensors)

    def _discrepancy(self, request: unit_pb2.GetDiscrepancyMapsRequest) -> Replies:
        request, backend = self._lane.admit(request)
        images = self._lane.batch(request.images, backend)
        params = validate(request.discrepancy, path="discrepancy")  # Defaults, where there is none.
        found = discrepancy(backend, images, request.layer, request.channel, params)
        layer, size = backend.stored.manifest.layer(request.layer), (images.shape[2], images.shape[3])
        result = unit_pb2.DiscrepancyResult(
            hits=locate(found.value, layer, request.channel, size),
            theoretical_size=theoretical_size(layer, size),
            empirical_size=found.empirical_size,
        )
        yield unit_pb2.GetDiscrepancyMapsResponse(result=result)
        tensors = {"images": images, "maps": found.maps, "field": found.field}
        yield parts(unit_pb2.GetDiscrepancyMapsResponse, tensors)
