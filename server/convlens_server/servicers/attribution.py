"""convlens.v1.AttributionService."""

from __future__ import annotations

from typing import Any

from convlens.v1 import attribution_pb2, attribution_pb2_grpc
from convlens_server.quick.attribution import attribute
from convlens_server.quick.inference_service import InferenceService, Replies, Streamed, parts
from convlens_server.quick.quality import resolved
from convlens_server.quick.randomisation import cascade


class AttributionServicer(attribution_pb2_grpc.AttributionServiceServicer):
    """What in an image a network responds to."""

    def __init__(self, lane: InferenceService) -> None:
        self._lane = lane

    async def Attribute(  # noqa: N802
        self, request: attribution_pb2.AttributeRequest, context: Any
    ) -> Streamed:
        """Targets attributed to the pixels."""
        async for reply in self._lane.stream(self._attribute, request):
            yield reply

    async def CheckRandomisation(  # noqa: N802
        self, request: attribution_pb2.CheckRandomisationRequest, context: Any
    ) -> Streamed:
        """Maps of the trained network beside those of one that is random from the top down."""
        async for reply in self._lane.stream(self._check, request):
            yield reply

    def _attribute(self, request: attribution_pb2.AttributeRequest) -> Replies:
        request, backend = self._lane.admit(request)
        images = self._lane.batch(request.images, backend)
        scoring = resolved(request.quality) if request.HasField("quality") else None
        result = attribution_pb2.AttributeResult(quality=scoring)
        for name, attribution, target in attribute(backend, images, request.attributions, scoring):
            result.targets.append(target)
            yield parts(attribution_pb2.AttributeResponse, {name: attribution})
        yield attribution_pb2.AttributeResponse(result=result)

    def _check(self, request: attribution_pb2.CheckRandomisationRequest) -> Replies:
        request, backend = self._lane.admit(request)
        images = self._lane.batch([request.image], backend, "image")
        yield from cascade(backend, images, request)
