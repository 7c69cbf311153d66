"""convlens.v1.InspectionService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from convlens.v1 import inspection_pb2, inspection_pb2_grpc
from convlens_server.quick_lane import QuickLane, parts
from convlens_server.techniques.activations import activations
from convlens_server.techniques.classify import classify


class InspectionServicer(inspection_pb2_grpc.InspectionServiceServicer):
    """Predictions and activations."""

    def __init__(self, lane: QuickLane) -> None:
        self._lane = lane

    async def Classify(  # noqa: N802
        self, request: inspection_pb2.ClassifyRequest, context: Any
    ) -> inspection_pb2.ClassifyResponse:
        """The most probable classes of each image."""
        return await self._lane.executor.run(self._classify, request)

    async def GetActivations(  # noqa: N802
        self, request: inspection_pb2.GetActivationsRequest, context: Any
    ) -> AsyncIterator[inspection_pb2.GetActivationsResponse]:
        """The values of layers."""
        async for reply in self._lane.executor.stream(self._activations, request):
            yield reply

    def _classify(self, request: inspection_pb2.ClassifyRequest) -> inspection_pb2.ClassifyResponse:
        request, engine = self._lane.admit(request)
        images = self._lane.batch(request.images, engine)
        return inspection_pb2.ClassifyResponse(classifications=classify(engine, images, request.top_k))

    def _activations(
        self, request: inspection_pb2.GetActivationsRequest
    ) -> Iterator[inspection_pb2.GetActivationsResponse]:
        request, engine = self._lane.admit(request)
        images = self._lane.batch(request.images, engine)
        yield from parts(inspection_pb2.GetActivationsResponse, activations(engine, images, request.layers))
