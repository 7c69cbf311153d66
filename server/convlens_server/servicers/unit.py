"""convlens.v1.UnitService."""

# ruff: noqa: N802 (the methods are named as in the proto)
from __future__ import annotations

from convlens.v1 import unit_pb2, unit_pb2_grpc
from convlens_models.measures.receptive_field import theoretical_size
from convlens_server.backends.base import F32
from convlens_server.quick import costs
from convlens_server.quick.inference_service import Replies, parts
from convlens_server.request.validation import validate
from convlens_server.servicers.base import InferenceServicer, streamed
from convlens_server.techniques.discrepancy import discrepancy
from convlens_server.techniques.parts.units import locate
from convlens_server.techniques.unit_patterns import unit_patterns


class UnitServicer(InferenceServicer, unit_pb2_grpc.UnitServiceServicer):
    """Patterns that single units look for, and the pixels where they look."""

    @streamed
    def GetUnitPatterns(self, request: unit_pb2.GetUnitPatternsRequest) -> Replies:
        """Show what excites a unit in each image."""
        reads = [request.layer]
        request, backend, images = self.inference.admit_images(request, costs.back, lambda *_: reads)
        patterns = unit_patterns(backend, images, request.layer, request.channel)
        result = unit_pb2.UnitPatternsResult(hits=[pattern.hit for pattern in patterns])
        yield unit_pb2.GetUnitPatternsResponse(result=result)
        tensors: dict[str, F32] = {}
        for position, unit in enumerate(patterns):
            tensors |= {f"{position}.pattern": unit.pattern, f"{position}.crop": unit.crop}
        yield parts(unit_pb2.GetUnitPatternsResponse, tensors)

    @streamed
    def GetDiscrepancyMaps(self, request: unit_pb2.GetDiscrepancyMapsRequest) -> Replies:
        """Send maps of the pixels that a unit looks at."""
        reads = [request.layer]
        request, backend, images = self.inference.admit_images(
            request, costs.discrepancy_maps, lambda *_: reads
        )
        params = validate(request.discrepancy, path="discrepancy")  # Defaults, where there is none.
        measured = discrepancy(backend, images, request.layer, request.channel, params)
        layer, size = backend.stored.manifest.layer(request.layer), (images.shape[2], images.shape[3])
        result = unit_pb2.DiscrepancyResult(
            hits=locate(measured.value, layer, request.channel, size),
            theoretical_size=theoretical_size(layer, size),
            empirical_size=measured.empirical_size,
        )
        yield unit_pb2.GetDiscrepancyMapsResponse(result=result)
        tensors = {"images": images, "maps": measured.maps, "field": measured.field}
        yield parts(unit_pb2.GetDiscrepancyMapsResponse, tensors)
