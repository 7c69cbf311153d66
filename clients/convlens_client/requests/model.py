"""The networks of the repository and their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from convlens.errors import InvalidArgument
from convlens.v1 import admin_pb2, admin_pb2_grpc, model_pb2, model_pb2_grpc
from convlens_client.calls import Exchange, Method, Pages, Rpc, Steps, Tensors, Unary
from convlens_client.from_proto import field, from_proto
from convlens_client.results import Array, LoadedModel, Model

PIECE: Final = 1 << 20
"""Bytes of a file that are sent at once."""
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


def add_model(
    file: str | Path,
    name: str,
    *,
    data: Sequence[str | Path] = (),
    architecture: str = "",
    labels: str | Path | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    input_range: str = "",
    layout: str = "",
    bgr: bool = False,
    input_size: int | None = None,
    output: str = "",
    output_kind: str = "",
) -> Rpc[Model]:
    """Add a network to the server's repository, as the newest version of `name`; for administrators.

    The server proves it before anybody sees it. After a break the call goes on behind the last piece that is
    stored; called again with the same files, it changes nothing. The model comes without its layers.

    Args:
        file: a classifier as ONNX file, or weights of `architecture`.
        data: files beside it that an ONNX file names as its external data.
        labels: file of class names: one a line, or TSV, name last.
        mean, std, input_range, layout, bgr, input_size, output, output_kind: as `convlens models add` has
            them.
    """
    paths = [Path(path) for path in (file, *data)]
    model = model_pb2.NewModel(
        name=name,
        files=map(_described, paths),
        architecture=architecture,
        labels=_text(labels),
        mean=mean,
        std=std,
        input_range=input_range,
        layout=layout,
        bgr=bgr,
        input_size=input_size,
        output=output,
        output_kind=output_kind,
    )
    return Steps(_adding(model, paths))


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


def _adding(model: model_pb2.NewModel, paths: Sequence[Path]) -> Generator[Rpc[Any], Any, Model]:
    first = model_pb2.AddModelRequest(model=model)
    answers = yield Exchange(Method(_Models, "AddModel"), first, _pieces(paths), _answer)
    published: Model = answers[-1]
    return published


def _answer(reply: model_pb2.AddModelResponse) -> Any:
    """The bytes of a file that are stored, or the model."""
    return from_proto(reply.model) if reply.HasField("model") else reply.stored


def _pieces(paths: Sequence[Path]) -> Iterator[model_pb2.AddModelRequest]:
    """The files, piece by piece, each read as it is sent; and the end."""
    for place, path in enumerate(paths):
        with path.open("rb") as file:
            while data := file.read(PIECE):
                piece = model_pb2.ModelPiece(file=place, offset=file.tell() - len(data), data=data)
                yield model_pb2.AddModelRequest(piece=piece)
    yield model_pb2.AddModelRequest(publish=model_pb2.Publish())


def _described(path: Path) -> model_pb2.ModelFile:
    """Name, size and digest of a file. Raises InvalidArgument where it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return model_pb2.ModelFile(name=path.name, bytes=path.stat().st_size, digest=digest)
    except OSError as error:
        raise InvalidArgument.of("file", str(path), f"a readable file ({error.strerror})") from error


def _text(path: str | Path | None) -> str:
    """The content of a file of class names."""
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument.of("labels", str(path), f"a readable UTF-8 file ({error})") from error
