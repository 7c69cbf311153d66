"""convlens.v1.AttributionService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from convlens.v1 import attribution_pb2, attribution_pb2_grpc
from convlens_server.attribution import attribute
from convlens_server.quick_lane import QuickLane, parts


class AttributionServicer(attribution_pb2_grpc.AttributionServiceServicer):
    """What in an image a network responds to."""

    def __init__(self, lane: QuickLane) -> None:
        self._lane = lane

    async def Attribute(  # noqa: N802
        self, request: attribution_pb2.AttributeRequest, context: Any
    ) -> AsyncIterator[attribution_pb2.AttributeResponse]:
        """Targets attributed to the pixels."""
        async for reply in self._lane.executor.stream(self._attribute, request):
            yield reply

    def _attribute(
        self, request: attribution_pb2.AttributeRequest
    ) -> Iterator[attribution_pb2.AttributeResponse]:
        request, engine = self._lane.admit(request)
        images = self._lane.batch(request.images, engine)
        result, attributions = attribute(engine, images, request.attributions)
        yield attribution_pb2.AttributeResponse(result=result)
        for name, tensor in attributions:
            yield from parts(attribution_pb2.AttributeResponse, {name: tensor})
