"""Streams of tensors as protobuf writes and reads them; what `convlens.serialised` must be equal to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from convlens import wire
from convlens.v1 import tensor_pb2


def chunks(
    data: memoryview | bytes, offset: int = 0, size: int = wire.CHUNK_BYTES
) -> Iterator[tensor_pb2.TensorChunk]:
    """Pieces of `data`; `offset` is where it begins within the tensor."""
    view = memoryview(data)
    for start in range(0, len(view), size):
        piece = bytes(view[start : start + size])
        yield tensor_pb2.TensorChunk(offset=offset + start, data=piece, crc32c=google_crc32c.value(piece))


def to_parts(tensors: Mapping[str, NDArray[Any]]) -> Iterator[tensor_pb2.TensorPart]:
    """The stream of several tensors: each a header and its chunks."""
    for name, value in tensors.items():
        array = np.ascontiguousarray(value)
        yield tensor_pb2.TensorPart(header=wire.header(name, array))
        for chunk in chunks(array.reshape(-1).view(np.uint8).data):
            yield tensor_pb2.TensorPart(chunk=chunk)


def from_parts(parts: Iterable[tensor_pb2.TensorPart]) -> dict[str, NDArray[Any]]:
    """The tensors of a whole stream."""
    assembler = wire.Assembler()
    for part in parts:
        assembler.add(part)
    return assembler.finish()
