"""convlens.v1.InspectionService."""

# ruff: noqa: N802 (the methods are named as in the proto)
from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from convlens.errors import InvalidArgument
from convlens.v1 import inspection_pb2, inspection_pb2_grpc
from convlens_server.backends.base import F32, Backend
from convlens_server.quick.inference_service import Replies, Streamed, parts
from convlens_server.quick.ordered_map import ordered_map
from convlens_server.request.validation import validate
from convlens_server.servicers.base import InferenceServicer, computed, streamed
from convlens_server.techniques.activations import activations
from convlens_server.techniques.classify import classify
from convlens_server.techniques.features import features

IMAGES_AHEAD: Final = 4
"""The number of images of a stream that are decoded and computed at the same time."""


class InspectionServicer(InferenceServicer, inspection_pb2_grpc.InspectionServiceServicer):
    """Predictions, activations and features."""

    @computed
    def Classify(self, request: inspection_pb2.ClassifyRequest) -> inspection_pb2.ClassifyResponse:
        """Name the most probable classes of each image."""
        request, backend, images = self.inference.admit_images(request)
        return inspection_pb2.ClassifyResponse(classifications=classify(backend, images, request.top_k))

    @streamed
    def GetActivations(self, request: inspection_pb2.GetActivationsRequest) -> Replies:
        """Send the values of layers."""
        request, backend, images = self.inference.admit_images(request, reads=lambda asked, _: asked.layers)
        self.inference.check_values(backend, images, request.layers, "layers")
        yield parts(inspection_pb2.GetActivationsResponse, activations(backend, images, request))

    async def StreamFeatures(
        self, request_iterator: AsyncIterator[inspection_pb2.StreamFeaturesRequest], context: Any
    ) -> Streamed:
        """Send the feature vector of each image that comes."""
        run = self.inference.executor.run
        backend, options = await run(self._feature_options, await anext(request_iterator, None))
        vectors = ordered_map(
            lambda request: run(self._features, backend, options, request), request_iterator, IMAGES_AHEAD
        )
        async with aclosing(vectors):
            async for vector in vectors:
                for part in parts(inspection_pb2.StreamFeaturesResponse, vector):
                    yield part

    def _feature_options(
        self, request: inspection_pb2.StreamFeaturesRequest | None
    ) -> tuple[Backend, inspection_pb2.FeatureOptions]:
        if request is None or request.WhichOneof("part") != "options":
            raise InvalidArgument.of("options", "nothing", "sent once, first")
        backend = self.inference.backend(request.options.model, "options.model")
        return backend, validate(request.options, backend.stored.manifest, "options")

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
        self.inference.expect(backend, [image], field=f"{path}.image")
        pixels = self.inference.batch([image], backend, [options.layer], f"{escaped}.image")
        return {name: features(backend, pixels, options)[0]}
