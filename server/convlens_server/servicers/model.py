"""convlens.v1.ModelService."""

# ruff: noqa: N802 (the methods are named as in the proto)
from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from convlens.errors import InvalidArgument
from convlens.v1 import model_pb2, model_pb2_grpc
from convlens_models.manifest import Manifest
from convlens_server.identity import ADMIN, require_role
from convlens_server.quick.inference_service import Replies, parts
from convlens_server.request.validation import validate
from convlens_server.servicers.base import Gateways, InferenceServicer, computed, mirror, streamed
from convlens_server.servicers.new_model import Adding
from convlens_server.techniques.filters import filters


class ModelServicer(InferenceServicer, model_pb2_grpc.ModelServiceServicer):
    """Reads the model repository, for which nothing is loaded, and adds to it."""

    def __init__(self, gateways: Gateways) -> None:
        super().__init__(gateways)
        self._jobs = gateways.jobs
        self._under_way: set[asyncio.Task[Manifest]] = set()

    @computed
    def ListModels(self, request: model_pb2.ListModelsRequest) -> model_pb2.ListModelsResponse:
        """List a page of models."""
        request = validate(request)
        after, repository = _position(request.page_token), self.inference.models.repository
        manifests = [m for m in repository.list(request.all_versions) if (m.name, -m.version) > after]
        page, more = manifests[: request.page_size], len(manifests) > request.page_size
        return model_pb2.ListModelsResponse(
            models=[_described(manifest, ()) for manifest in page],
            next_page_token=f"{page[-1].name}/{page[-1].version}" if more else "",
        )

    @computed
    def GetModel(self, request: model_pb2.GetModelRequest) -> model_pb2.GetModelResponse:
        """Describe one model with its layers."""
        manifest = self.inference.stored(request.model).manifest
        layers = [
            mirror(
                model_pb2.Layer,
                layer,
                has_weights=layer.weight is not None,
                least_side=manifest.least_side(layer),
            )
            for layer in manifest.layers
        ]
        return model_pb2.GetModelResponse(model=_described(manifest, layers))

    @streamed
    def GetFilters(self, request: model_pb2.GetFiltersRequest) -> Replies:
        """Send the kernel of one layer."""
        stored = self.inference.stored(request.model)
        request = validate(request, stored.manifest)
        yield parts(model_pb2.GetFiltersResponse, filters(stored, request.layer))

    async def AddModel(
        self, request_iterator: AsyncIterator[model_pb2.AddModelRequest], context: Any
    ) -> AsyncIterator[model_pb2.AddModelResponse]:
        """Take in a network's files, acknowledge each piece, and publish what has proven to be one."""
        require_role(ADMIN)
        adding, inference = None, self.inference
        with self._jobs.room():
            async for request in self._jobs.until_stopping(request_iterator):
                request = validate(request)  # noqa: PLW2901
                part = request.WhichOneof("part") or ""
                if (part == "model") != (adding is None):
                    allowed = "sent once, first" if part == "model" else "sent after the model"
                    raise InvalidArgument.of(part, request.model.name or "a part", allowed)
                if adding is None:
                    make = partial(Adding, inference.models.repository.root, inference.settings)
                    adding = await inference.executor.run(make, request.model)
                elif part == "piece":
                    yield model_pb2.AddModelResponse(
                        stored=await inference.executor.run(adding.store, request.piece)
                    )
                else:
                    manifest = await self._jobs.unless_stopping(asyncio.shield(self._publishing(adding)))
                    yield model_pb2.AddModelResponse(model=_described(manifest, ()))

    def _publishing(self, adding: Adding) -> asyncio.Task[Manifest]:
        """Goes on when the caller is cut off, who comes back for what became of it; ends with the server."""
        task = asyncio.create_task(asyncio.to_thread(adding.publish, lambda: self._jobs.stopping))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return task


def _described(manifest: Manifest, layers: Sequence[model_pb2.Layer]) -> model_pb2.Model:
    kind = manifest.output_kind if manifest.task == "classification" else ""
    return mirror(model_pb2.Model, manifest, layers=layers, output_kind=kind)


def _position(page_token: str) -> tuple[str, int]:
    """The name and minus the version that a page token stands for; an empty token is before all models."""
    if not page_token:
        return "", 0
    match = re.fullmatch(r"([a-z0-9._-]{1,64})/([0-9]{1,9})", page_token)
    if match is None:
        raise InvalidArgument.of("page_token", page_token, "empty or the next_page_token of the page before")
    return match[1], -int(match[2])
