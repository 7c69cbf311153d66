"""Messages that are written and read without protobuf are those of protobuf."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from support.parts import chunks, to_parts

from convlens import wire
from convlens.serialised import LARGE, Chunk, chunk_messages, part_messages, reader
from convlens.v1 import inspection_pb2, job_pb2, tensor_pb2, unit_pb2

REPLIES = pytest.mark.parametrize(
    "reply",
    [inspection_pb2.GetActivationsResponse, unit_pb2.GetUnitPatternsResponse],
    ids=lambda reply: reply.__name__,
)


def protobuf_messages(reply: Any, tensors: dict[str, np.ndarray]) -> Iterator[bytes]:
    return (reply(tensor=part).SerializeToString() for part in to_parts(tensors))


@REPLIES
@pytest.mark.parametrize("size", [0, 1, 127, 128, wire.CHUNK_BYTES - 1, wire.CHUNK_BYTES, (5 << 20) // 2])
def test_serialised_messages_are_those_that_protobuf_writes(reply: Any, size: int) -> None:
    tensors = {"a": np.random.default_rng(size).integers(0, 256, size, np.uint8), "b": np.eye(3)[:, ::2]}
    parts = [reply.FromString(message) for message in part_messages(reply, tensors)]
    assert parts == [reply(tensor=part) for part in to_parts(tensors)]


@REPLIES
@pytest.mark.parametrize("write", [part_messages, protobuf_messages])
def test_large_chunks_are_read_as_they_lie(reply: Any, write: Any) -> None:
    """Whether we wrote them or protobuf, which puts the checksum behind the data, so that it reads it too."""
    tensors = {"a": np.random.default_rng(0).integers(0, 256, (5 << 20) // 2, np.uint8), "b": np.eye(3)}
    assembler, read = wire.Assembler(), reader(reply.FromString)
    kinds = []
    for message in write(reply, tensors):
        part = read(message)
        kinds.append(type(part))
        assert part.HasField("tensor")
        assert part.tensor.HasField("header") != part.tensor.HasField("chunk")
        assembler.add(part.tensor)
    tensors_read = assembler.finish()
    assert all(np.array_equal(tensors_read[name], value) for name, value in tensors.items())
    assert kinds.count(Chunk) == (3 if write is part_messages else 0)


@given(st.data())
def test_what_is_damaged_is_read_as_protobuf_reads_it(data: st.DataObject) -> None:
    reply = inspection_pb2.GetActivationsResponse
    (_, message) = part_messages(reply, {"a": np.zeros(LARGE + 1, np.uint8)})
    damaged = bytearray(message)
    for position in data.draw(st.lists(st.integers(0, 30), max_size=3)):
        damaged[position] = data.draw(st.integers(0, 255))
    try:
        expected = reply.FromString(bytes(damaged)).tensor.chunk
    except DecodeError:
        expected = None
    try:
        read_chunk = reader(reply.FromString)(bytes(damaged)).tensor.chunk
    except DecodeError:
        read_chunk = None
    assert (read_chunk is None) == (expected is None)
    if read_chunk is not None and expected is not None:
        assert (read_chunk.offset, read_chunk.crc32c, bytes(read_chunk.data)) == (
            expected.offset,
            expected.crc32c,
            expected.data,
        )


def test_messages_without_tensors_are_protobufs() -> None:
    assert reader(job_pb2.GetJobStatsResponse.FromString) == job_pb2.GetJobStatsResponse.FromString


def test_serialised_chunks_go_on_where_a_stream_broke() -> None:
    data, reply = np.arange(9, dtype=np.uint8), job_pb2.ReadArtifactResponse
    (message,) = chunk_messages(reply, data, 1 << 40)
    (chunk,) = chunks(data.tobytes(), 1 << 40)
    assert reply.FromString(message) == reply(tensor=tensor_pb2.TensorPart(chunk=chunk))
