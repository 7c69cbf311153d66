"""convlens.v1.ModelService."""

from __future__ import annotations

import re
from typing import Any

from convlens.errors import InvalidArgument
from convlens.v1 import model_pb2, model_pb2_grpc
from convlens_models.manifest import Manifest
from convlens_server.quick.inference_service import InferenceService, Replies, Streamed, parts
from convlens_server.serving.validation import validate
from convlens_server.techniques.filters import filters


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Reads the model repository; nothing is loaded for it."""

    def __init__(self, lane: InferenceService) -> None:
        self._lane = lane
        self._repository = lane.models.repository

    async def ListModels(  # noqa: N802
        self, request: model_pb2.ListModelsRequest, context: Any
    ) -> model_pb2.ListModelsResponse:
        """A page of models."""
        return await self._lane.executor.run(self._list, validate(request))

    async def GetModel(  # noqa: N802
        self, request: model_pb2.GetModelRequest, context: Any
    ) -> model_pb2.GetModelResponse:
        """One model with its layers."""
        return await self._lane.executor.run(self._get, request)

    async def GetFilters(  # noqa: N802
        self, request: model_pb2.GetFiltersRequest, context: Any
    ) -> Streamed:
        """The kernel of one layer."""
        async for reply in self._lane.stream(self._filters, request):
            yield reply

    def _list(self, request: model_pb2.ListModelsRequest) -> model_pb2.ListModelsResponse:
        after = _position(request.page_token)
        manifests = [m for m in self._repository.list(request.all_versions) if (m.name, -m.version) > after]
        page, more = manifests[: request.page_size], len(manifests) > request.page_size
        return model_pb2.ListModelsResponse(
            models=[_message(manifest) for manifest in page],
            next_page_token=f"{page[-1].name}/{page[-1].version}" if more else "",
        )

    def _get(self, request: model_pb2.GetModelRequest) -> model_pb2.GetModelResponse:
        manifest = self._lane.stored(request.model).manifest
        layers = [
            model_pb2.Layer(
                name=layer.name,
                kind=layer.kind,
                shape=layer.shape,
                stride=layer.stride,
                receptive_field=layer.receptive_field,
                receptive_field_start=layer.receptive_field_start,
                has_weights=layer.weight is not None,
            )
            for layer in manifest.layers
        ]
        return model_pb2.GetModelResponse(model=_message(manifest, layers))

    def _filters(self, request: model_pb2.GetFiltersRequest) -> Replies:
        stored = self._lane.stored(request.model)
        request = validate(request, stored.manifest)
        yield parts(model_pb2.GetFiltersResponse, filters(stored, request.layer))


def _position(page_token: str) -> tuple[str, int]:
    """The place of a page token in the order of names and, newest first, versions; empty: the beginning."""
    if not page_token:
        return "", 0
    match = re.fullmatch(r"([a-z0-9._-]{1,64})/([0-9]{1,9})", page_token)
    if match is None:
        raise InvalidArgument.of("page_token", page_token, "empty or the next_page_token of the page before")
    return match[1], -int(match[2])


def _message(manifest: Manifest, layers: list[model_pb2.Layer] | None = None) -> model_pb2.Model:
    return model_pb2.Model(
        name=manifest.name,
        version=manifest.version,
        architecture=manifest.architecture,
        engine=manifest.engine,
        input_size=manifest.input_size,
        dynamic_size=manifest.dynamic_size,
        mean=manifest.mean,
        std=manifest.std,
        labels=manifest.labels,
        layers=layers,
        parameters=manifest.parameters,
        multiply_adds=manifest.multiply_adds,
        digest=manifest.digest,
        task=manifest.task,
    )
