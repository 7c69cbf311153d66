"""convlens.v1.AttributionService."""

# ruff: noqa: N802 (the methods are named as in the proto)
from __future__ import annotations

from convlens.v1 import attribution_pb2, attribution_pb2_grpc
from convlens_server.quick import costs
from convlens_server.quick.attribution import attribute, layers_read
from convlens_server.quick.inference_service import Replies, parts
from convlens_server.quick.quality import resolved
from convlens_server.quick.randomisation import cascade
from convlens_server.servicers.base import InferenceServicer, streamed


class AttributionServicer(InferenceServicer, attribution_pb2_grpc.AttributionServiceServicer):
    """Maps of what in an image a network responds to."""

    @streamed
    def Attribute(self, request: attribution_pb2.AttributeRequest) -> Replies:
        """Attribute targets to the pixels."""
        request, backend, images = self.inference.admit_images(request, costs.attribute, layers_read)
        scoring = resolved(request.quality) if request.HasField("quality") else None
        result = attribution_pb2.AttributeResult(quality=scoring)
        for name, attribution, target in attribute(backend, images, request.attributions, scoring):
            result.targets.append(target)
            yield parts(attribution_pb2.AttributeResponse, {name: attribution})
        yield attribution_pb2.AttributeResponse(result=result)

    @streamed
    def CheckRandomisation(self, request: attribution_pb2.CheckRandomisationRequest) -> Replies:
        """Compare maps of the trained network with those of one that is random from the top down."""
        request, backend = self.inference.admit(request)
        self.inference.expect(backend, [request.image], costs.randomisation, request, field="image")
        images = self.inference.batch(
            [request.image], backend, layers_read(request, backend.stored.manifest), "image"
        )
        yield from cascade(backend, images, request)
