"""The networks of the repository and their weights."""

from __future__ import annotations

from convlens.errors import InvalidArgument
from convlens.v1 import model_pb2, model_pb2_grpc
from convlens_client.calls import Call, Method, Pages, Tensors, Unary
from convlens_client.freezing import freeze
from convlens_client.results import Array, Model

_Models = model_pb2_grpc.ModelServiceStub


def model_ref(model: str) -> model_pb2.ModelRef:
    """The reference for "name", "name/version" or "" (the default)."""
    name, slash, version = model.partition("/")
    if slash and not version.isdecimal():
        raise InvalidArgument.of("model", model, "a name or name/version, the version a number")
    return model_pb2.ModelRef(name=name, version=int(version) if slash else None)


def list_models(*, all_versions: bool = False) -> Call[tuple[Model, ...]]:
    """The models of the repository, without their layers; only the newest versions unless `all_versions`."""
    request = model_pb2.ListModelsRequest(all_versions=all_versions)
    return Pages(Method(_Models, "ListModels"), request, "models", freeze)


def get_model(model: str = "") -> Call[Model]:
    """One model with its layers and labels."""
    request = model_pb2.GetModelRequest(model=model_ref(model))
    return Unary(Method(_Models, "GetModel"), request, lambda reply: freeze(reply.model))


def filters(layer: str = "", *, model: str = "") -> Call[Array]:
    """Kernel of a layer, (out, in / groups, kh, kw) or (out, in); of the first convolution by default."""
    request = model_pb2.GetFiltersRequest(model=model_ref(model), layer=layer)
    return Tensors(Method(_Models, "GetFilters"), request, lambda _, tensors: _only(tensors))


def _only(tensors: dict[str, Array]) -> Array:
    (array,) = tensors.values()
    return array
