"""Messages with large bytes in them, written and read without protobuf, which copies the bytes each time.

What is written is what protobuf would write; what is read is left to protobuf unless it looks like that.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Self

import google_crc32c
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from convlens.v1 import tensor_pb2
from convlens.wire import CHUNK_BYTES, header

DELIMITED: Final = 2
"""The wire type of fields with a length: the last three bits of how they begin."""
LARGE: Final = 1 << 16
"""Bytes from which on a message is worth the trouble."""
ONE_BYTE: Final = 0x7F
"""The largest number that is written as one byte."""


def field_number(message: type[Message], field: str) -> int:
    """The number that stands for a field on the wire."""
    return int(message.DESCRIPTOR.fields_by_name[field].number)


DATA: Final = field_number(tensor_pb2.TensorChunk, "data")
CHUNK: Final = field_number(tensor_pb2.TensorPart, "chunk")
OFFSET: Final = field_number(tensor_pb2.TensorChunk, "offset") << 3
CRC32C: Final = field_number(tensor_pb2.TensorChunk, "crc32c") << 3 | 5
"""How the chunk's other fields begin: a number of any length, one of 4 bytes."""


def part_messages(reply: type[Message], tensors: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    """The stream of several tensors, each a header and its chunks, in messages with a field `tensor`."""
    ready = {name: np.ascontiguousarray(value) for name, value in tensors.items()}

    def messages() -> Iterator[bytes]:
        for name, array in ready.items():
            yield header_message(reply, header(name, array))
            yield from chunk_messages(reply, array.reshape(-1).view(np.uint8))

    return messages()


def header_message(reply: type[Message], head: tensor_pb2.TensorHeader) -> bytes:
    """A message whose field `tensor` is a header."""
    part = tensor_pb2.TensorPart(header=head).SerializeToString()
    return b"".join(_delimited(field_number(reply, "tensor"), part))


def chunk_messages(reply: type[Message], data: NDArray[np.uint8], offset: int = 0) -> Iterator[bytes]:
    """Messages whose field `tensor` is a chunk of `data`; `offset` is where it begins within the tensor."""
    tensor = field_number(reply, "tensor")
    for start in range(0, len(data), CHUNK_BYTES):
        piece = data[start : start + CHUNK_BYTES]
        fields = tensor_pb2.TensorChunk(offset=offset + start, crc32c=google_crc32c.value(piece))
        chunk = (fields.SerializeToString(), *_delimited(DATA, piece.data))
        yield b"".join(_delimited(tensor, *_delimited(CHUNK, *chunk)))


class Chunk:
    """A message with a chunk in its field `tensor`, to be used as that message: it is its own `tensor`.

    Attributes:
        offset, crc32c: as in TensorChunk.
        data: a view of the message.
    """

    def __init__(self, offset: int, crc32c: int, data: NDArray[np.uint8]) -> None:
        self.offset, self.crc32c, self.data = offset, crc32c, data

    @property
    def tensor(self) -> Self:
        """This chunk, which stands for its message and its part too."""
        return self

    chunk = tensor

    def HasField(self, name: str) -> bool:  # noqa: N802 - as protobuf calls it.
        """True for the fields that it stands for."""
        return name in ("tensor", "chunk")

    def WhichOneof(self, _: str) -> str:  # noqa: N802 - as protobuf calls it.
        """The name of the arm of the oneof that is set."""
        return "chunk"


def reader(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A message's `FromString`; for messages with a field `tensor` one that gives large chunks as `Chunk`."""
    reply: Any = getattr(deserialize, "__self__", None)
    if "tensor" not in getattr(getattr(reply, "DESCRIPTOR", None), "fields_by_name", ()):
        return deserialize
    tensor = field_number(reply, "tensor")
    return lambda data: (len(data) > LARGE and _chunk(data, tensor)) or deserialize(data)


def _chunk(data: bytes, tensor: int) -> Chunk | None:
    """The chunk of a message that is nothing else, with its data at the end."""
    begin = 0
    for number in (tensor, CHUNK):
        begin, end = value_at(data, begin, number)
        if end != len(data):
            return None
    at, offset, crc32c = begin, 0, 0
    while data[at] in (OFFSET, CRC32C):
        if data[at] == OFFSET:
            offset, at = _read_varint(data, at + 1)
        else:
            crc32c, at = int.from_bytes(data[at + 1 : at + 5], "little"), at + 5
    begin, end = value_at(data, at, DATA)
    return Chunk(offset, crc32c, np.frombuffer(data, np.uint8, offset=begin)) if end == len(data) else None


def value_at(data: bytes, position: int, number: int | None = None) -> tuple[int, int]:
    """Where the value of the field at a position begins and ends; (0, 0) unless it has a length.

    Args:
        number: of the field, up to 15; by default any.
    """
    key = data[position] if position < len(data) else 0
    if key & 7 != DELIMITED or key > ONE_BYTE or number not in (None, key >> 3):
        return 0, 0
    length, begin = _read_varint(data, position + 1)
    return (begin, begin + length) if begin else (0, 0)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at a position, and where it ends; (0, 0) if it does not end."""
    value = 0
    for at in range(position, min(position + 10, len(data))):
        value |= (data[at] & ONE_BYTE) << 7 * (at - position)
        if data[at] <= ONE_BYTE:
            return value, at + 1
    return 0, 0


def _delimited(number: int, *value: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
    """A field with a length."""
    return _varint(number << 3 | DELIMITED), _varint(sum(map(len, value))), *value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > ONE_BYTE:
        encoded.append(value & ONE_BYTE | 0x80)
        value >>= 7
    return bytes((*encoded, value))
