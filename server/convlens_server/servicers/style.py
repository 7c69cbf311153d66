"""convlens.v1.StyleService."""

from __future__ import annotations

from typing import Any

from convlens.v1 import style_pb2, style_pb2_grpc
from convlens_models.preprocess import to_input
from convlens_server.quick.inference_service import InferenceService, Replies, Streamed, parts
from convlens_server.techniques.stylise import stylise


class StyleServicer(style_pb2_grpc.StyleServiceServicer):
    """Images painted by style networks."""

    def __init__(self, lane: InferenceService) -> None:
        self._lane = lane

    async def Stylise(  # noqa: N802
        self, request: style_pb2.StyliseRequest, context: Any
    ) -> Streamed:
        """One image in the style of the network."""
        async for reply in self._lane.stream(self._stylise, request):
            yield reply

    def _stylise(self, request: style_pb2.StyliseRequest) -> Replies:
        request, backend = self._lane.admit(request, "style")
        image = to_input(request.image, backend.stored.manifest, "keep", "image")
        painted = stylise(backend, image, request.tile)
        yield parts(style_pb2.StyliseResponse, {"image": painted[None]})
