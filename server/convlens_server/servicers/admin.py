"""convlens.v1.AdminService."""

from __future__ import annotations

from typing import Any

from convlens.errors import NotFound
from convlens.v1 import admin_pb2, admin_pb2_grpc
from convlens_server.backends.models import Loaded
from convlens_server.backends.warming import warm
from convlens_server.identity import ADMIN, require_role
from convlens_server.quick.inference_service import InferenceService
from convlens_server.serving.validation import validate


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """What the server holds in memory."""

    def __init__(self, lane: InferenceService) -> None:
        self._models, self._executor = lane.models, lane.executor

    async def LoadModel(  # noqa: N802
        self, request: admin_pb2.LoadModelRequest, context: Any
    ) -> admin_pb2.LoadModelResponse:
        """Load a model and run it once."""
        require_role(ADMIN)
        return await self._executor.run(self._load, validate(request))

    async def UnloadModel(  # noqa: N802
        self, request: admin_pb2.UnloadModelRequest, context: Any
    ) -> admin_pb2.UnloadModelResponse:
        """Free the memory of a model."""
        require_role(ADMIN)
        return await self._executor.run(self._unload, validate(request))

    async def ListLoadedModels(  # noqa: N802
        self, request: admin_pb2.ListLoadedModelsRequest, context: Any
    ) -> admin_pb2.ListLoadedModelsResponse:
        """What is in memory."""
        require_role(ADMIN)
        return admin_pb2.ListLoadedModelsResponse(models=[_message(item) for item in self._models.loaded()])

    def _load(self, request: admin_pb2.LoadModelRequest) -> admin_pb2.LoadModelResponse:
        stored = warm(self._models, request.model).stored
        held = {item.stored.path: item for item in self._models.loaded()}
        return admin_pb2.LoadModelResponse(model=_message(held.get(stored.path, Loaded(stored, 0, 0))))

    def _unload(self, request: admin_pb2.UnloadModelRequest) -> admin_pb2.UnloadModelResponse:
        gone = self._models.unload(request.model)
        if not gone:
            name, version = request.model.name, request.model.version
            raise NotFound(f"model {name!r}{f' version {version}' if version else ''} is not loaded")
        return admin_pb2.UnloadModelResponse(models=[_message(item) for item in gone])


def _message(item: Loaded) -> admin_pb2.LoadedModel:
    manifest = item.stored.manifest
    return admin_pb2.LoadedModel(
        name=manifest.name,
        version=manifest.version,
        digest=manifest.digest,
        sessions=item.sessions,
        bytes=int(item.bytes),
    )
