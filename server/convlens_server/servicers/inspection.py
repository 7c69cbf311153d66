"""convlens.v1.InspectionService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from convlens.errors import InvalidArgument
from convlens.v1 import inspection_pb2, inspection_pb2_grpc
from convlens_server.backends.base import F32, Backend
from convlens_server.quick.inference_service import InferenceService, Replies, Streamed, parts
from convlens_server.quick.ordered_map import in_order
from convlens_server.serving.validation import validate
from convlens_server.techniques.activations import activations
from convlens_server.techniques.classify import classify
from convlens_server.techniques.features import features

IMAGES_AHEAD: Final = 4
"""Images of a stream that are decoded and computed at the same time."""


class InspectionServicer(inspection_pb2_grpc.InspectionServiceServicer):
    """Predictions and activations."""

    def __init__(self, lane: InferenceService) -> None:
        self._lane = lane

    async def Classify(  # noqa: N802
        self, request: inspection_pb2.ClassifyRequest, context: Any
    ) -> inspection_pb2.ClassifyResponse:
        """The most probable classes of each image."""
        return await self._lane.executor.run(self._classify, request)

    async def GetActivations(  # noqa: N802
        self, request: inspection_pb2.GetActivationsRequest, context: Any
    ) -> Streamed:
        """The values of layers."""
        async for reply in self._lane.stream(self._activations, request):
            yield reply

    async def StreamFeatures(  # noqa: N802
        self, request_iterator: AsyncIterator[inspection_pb2.StreamFeaturesRequest], context: Any
    ) -> Streamed:
        """The feature vector of each image that comes."""
        run = self._lane.executor.run
        backend, options = await run(self._feature_options, await anext(request_iterator, None))
        vectors = in_order(
            request_iterator, lambda request: run(self._features, backend, options, request), IMAGES_AHEAD
        )
        async with aclosing(vectors):
            async for vector in vectors:
                for part in parts(inspection_pb2.StreamFeaturesResponse, vector):
                    yield part

    def _classify(self, request: inspection_pb2.ClassifyRequest) -> inspection_pb2.ClassifyResponse:
        request, backend = self._lane.admit(request)
        images = self._lane.batch(request.images, backend)
        return inspection_pb2.ClassifyResponse(classifications=classify(backend, images, request.top_k))

    def _activations(self, request: inspection_pb2.GetActivationsRequest) -> Replies:
        request, backend = self._lane.admit(request)
        images = self._lane.batch(request.images, backend)
        self._lane.check_values(backend, images, request.layers, "layers")
        yield parts(inspection_pb2.GetActivationsResponse, activations(backend, images, request))

    def _feature_options(
        self, request: inspection_pb2.StreamFeaturesRequest | None
    ) -> tuple[Backend, inspection_pb2.FeatureOptions]:
        if request is None or request.WhichOneof("part") != "options":
            raise InvalidArgument.of("options", "nothing", "sent once, first")
        backend = self._lane.backend(request.options.model, "options.model")
        options = validate(request.options, backend.stored.manifest, "options")
        return backend, options

    def _features(
        self,
        backend: Backend,
        options: inspection_pb2.FeatureOptions,
        request: inspection_pb2.StreamFeaturesRequest,
    ) -> dict[str, F32]:
        """The vector of one image, by its name; a pass of its own, so that neighbours change nothing."""
        if request.WhichOneof("part") != "image":
            raise InvalidArgument.of("image", "nothing", "sent after the options, and nothing else")
        name = request.image.name
        path = f"image[{name!r}]"
        image = validate(request.image, backend.stored.manifest, path).image
        escaped = path.replace("{", "{{").replace("}", "}}")
        return {name: features(backend, self._lane.batch([image], backend, f"{escaped}.image"), options)[0]}
