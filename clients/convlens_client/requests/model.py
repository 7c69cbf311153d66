"""The networks of the repository and their weights."""

from __future__ import annotations

from convlens.errors import InvalidArgument
from convlens.v1 import admin_pb2, admin_pb2_grpc, model_pb2, model_pb2_grpc
from convlens_client.calls import Method, Pages, Rpc, Tensors, Unary
from convlens_client.from_proto import field, from_proto
from convlens_client.results import Array, LoadedModel, Model

_Models = model_pb2_grpc.ModelServiceStub
_Admin = admin_pb2_grpc.AdminServiceStub


def model_ref(model: str) -> model_pb2.ModelRef:
    """The reference for "name", "name/version" or "" (the default)."""
    name, slash, version = model.partition("/")
    if slash and not version.isdecimal():
        raise InvalidArgument.of("model", model, "a name or name/version, the version a number")
    return model_pb2.ModelRef(name=name, version=int(version) if slash else None)


def list_models(*, all_versions: bool = False) -> Rpc[tuple[Model, ...]]:
    """The models of the repository, without their layers; only the newest versions unless `all_versions`."""
    request = model_pb2.ListModelsRequest(all_versions=all_versions)
    return Pages(Method(_Models, "ListModels"), request, "models", from_proto)


def get_model(model: str = "") -> Rpc[Model]:
    """One model with its layers and labels."""
    request = model_pb2.GetModelRequest(model=model_ref(model))
    return Unary(Method(_Models, "GetModel"), request, field("model"))


def filters(layer: str = "", *, model: str = "") -> Rpc[Array]:
    """Kernel of a layer, (out, in / groups, kh, kw) or (out, in); of the first convolution by default."""
    request = model_pb2.GetFiltersRequest(model=model_ref(model), layer=layer)
    return Tensors(Method(_Models, "GetFilters"), request, lambda _, tensors: _only(tensors))


def load_model(model: str = "") -> Rpc[LoadedModel]:
    """Load a model into the server's memory, and run it once; for administrators."""
    request = admin_pb2.LoadModelRequest(model=model_ref(model))
    return Unary(Method(_Admin, "LoadModel"), request, field("model"))


def unload_model(model: str = "") -> Rpc[tuple[LoadedModel, ...]]:
    """Free the memory of a model, of all its versions unless one is named; for administrators."""
    request = admin_pb2.UnloadModelRequest(model=model_ref(model))
    return Unary(Method(_Admin, "UnloadModel"), request, field("models"))


def loaded_models() -> Rpc[tuple[LoadedModel, ...]]:
    """What is in the server's memory; for administrators."""
    return Unary(Method(_Admin, "ListLoadedModels"), admin_pb2.ListLoadedModelsRequest(), field("models"))


def _only(tensors: dict[str, Array]) -> Array:
    (array,) = tensors.values()
    return array
