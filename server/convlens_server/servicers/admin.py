"""convlens.v1.AdminService."""

# ruff: noqa: N802 (the methods are named as in the proto)
from __future__ import annotations

from typing import Any

from convlens.errors import NotFound
from convlens.v1 import admin_pb2, admin_pb2_grpc
from convlens_server.backends.models import Loaded
from convlens_server.backends.warming import warm
from convlens_server.identity import ADMIN, require_role
from convlens_server.request.validation import validate
from convlens_server.servicers.base import InferenceServicer, mirror


class AdminServicer(InferenceServicer, admin_pb2_grpc.AdminServiceServicer):
    """The models that the server holds in memory; all calls need the role "admin"."""

    async def LoadModel(
        self, request: admin_pb2.LoadModelRequest, context: Any
    ) -> admin_pb2.LoadModelResponse:
        """Load a model and run it once."""
        require_role(ADMIN)
        return await self.inference.executor.run(self._load, validate(request))

    async def UnloadModel(
        self, request: admin_pb2.UnloadModelRequest, context: Any
    ) -> admin_pb2.UnloadModelResponse:
        """Free the memory of a model."""
        require_role(ADMIN)
        return await self.inference.executor.run(self._unload, validate(request))

    async def ListLoadedModels(
        self, request: admin_pb2.ListLoadedModelsRequest, context: Any
    ) -> admin_pb2.ListLoadedModelsResponse:
        """List the models that are in memory."""
        require_role(ADMIN)
        return admin_pb2.ListLoadedModelsResponse(models=map(_message, self.inference.models.loaded()))

    def _load(self, request: admin_pb2.LoadModelRequest) -> admin_pb2.LoadModelResponse:
        models = self.inference.models
        stored = warm(models, request.model).stored
        held = {item.stored.path: item for item in models.loaded()}
        return admin_pb2.LoadModelResponse(model=_message(held.get(stored.path, Loaded(stored, 0, 0))))

    def _unload(self, request: admin_pb2.UnloadModelRequest) -> admin_pb2.UnloadModelResponse:
        gone = self.inference.models.unload(request.model)
        if not gone:
            name, version = request.model.name, request.model.version
            raise NotFound(f"model {name!r}{f' version {version}' if version else ''} is not loaded")
        return admin_pb2.UnloadModelResponse(models=map(_message, gone))


def _message(item: Loaded) -> admin_pb2.LoadedModel:
    return mirror(admin_pb2.LoadedModel, item.stored.manifest, sessions=item.sessions, bytes=int(item.bytes))
