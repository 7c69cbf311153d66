"""convlens.v1.StyleService."""

# ruff: noqa: N802 (the methods are named as in the proto)
from __future__ import annotations

from convlens.v1 import style_pb2, style_pb2_grpc
from convlens_models.preprocess import to_input
from convlens_server.quick.inference_service import Replies, parts
from convlens_server.servicers.base import InferenceServicer, streamed
from convlens_server.techniques.stylise import stylise


class StyleServicer(InferenceServicer, style_pb2_grpc.StyleServiceServicer):
    """Images in the style of style networks."""

    @streamed
    def Stylise(self, request: style_pb2.StyliseRequest) -> Replies:
        """Render one image in the style of the network."""
        request, backend = self.inference.admit(request, "style")
        self.inference.expect(backend, [request.image], field="image", default="keep")
        image = to_input(request.image, backend.stored.manifest, "keep", "image")
        stylised = stylise(backend, image, request.tile)
        yield parts(style_pb2.StyliseResponse, {"image": stylised[None]})
