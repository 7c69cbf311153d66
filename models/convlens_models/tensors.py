"""Weights of a graph in one safetensors file: ONNX external data that points into it by byte offset."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from convlens.errors import DataLoss

DTYPES: Final[dict[str, tuple[np.dtype[Any], int]]] = {
    "F16": (np.dtype("<f2"), onnx.TensorProto.FLOAT16),
    "F32": (np.dtype("<f4"), onnx.TensorProto.FLOAT),
    "F64": (np.dtype("<f8"), onnx.TensorProto.DOUBLE),
    "I32": (np.dtype("<i4"), onnx.TensorProto.INT32),
    "I64": (np.dtype("<i8"), onnx.TensorProto.INT64),
    "U8": (np.dtype("u1"), onnx.TensorProto.UINT8),
    "BOOL": (np.dtype("?"), onnx.TensorProto.BOOL),
}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in a safetensors file; offset and length in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def index(path: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file by name. Raises DataLoss when the file is damaged."""
    try:
        with safe_open(path, framework="numpy"):  # Checks the whole header, so that we need not.
            pass
    except SafetensorError as error:
        raise DataLoss(f"{path} is not a safetensors file: {error}") from error
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: Entry(item["dtype"], tuple(item["shape"]), 8 + size + begin, end - begin)
        for name, item in header.items()
        for begin, end in [item["data_offsets"]]
    }


def load(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file as read-only views of the mapped file."""
    data = np.memmap(path, np.uint8, mode="r")
    return {
        name: data[entry.offset : entry.offset + entry.length]
        .view(DTYPES[entry.dtype][0])
        .reshape(entry.shape)
        for name, entry in index(path).items()
    }


def external(name: str, entry: Entry, location: str) -> onnx.TensorProto:
    """An initializer that points at a tensor of the file `location` beside the graph."""
    tensor = onnx.TensorProto(
        name=name, data_type=DTYPES[entry.dtype][1], dims=entry.shape, data_location=onnx.TensorProto.EXTERNAL
    )
    for key, value in {"location": location, "offset": entry.offset, "length": entry.length}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def check_external(model: onnx.ModelProto, sizes: Mapping[str, int]) -> None:
    """Raise DataLoss when external data of `model` is not within the files of `sizes` (name to bytes)."""
    for tensor in tensors_of(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = {item.key: item.value for item in tensor.external_data}
        offset, length = where.get("offset", "0"), where.get("length", "")
        inside = (
            offset.isdecimal()
            and length.isdecimal()
            and int(offset) + int(length) <= sizes.get(where.get("location", ""), -1)
        )
        if not inside:
            raise DataLoss(f"external data of {tensor.name!r} lies outside the model: {where}")


def tensors_of(model: onnx.ModelProto) -> Iterable[onnx.TensorProto]:
    """Every tensor of a model, wherever it is: initializers, attributes, subgraphs, functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterable[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph_tensors(graph)
