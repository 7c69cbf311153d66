"""A request that is read without copying its tensors says what protobuf says of it."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from convlens.inference import open_inference_pb2 as pb
from convlens_server.request.raw_request import MOST_FIELDS, RawRequest

MESSAGES = st.builds(
    pb.ModelInferRequest,
    model_name=st.text(max_size=5),
    id=st.text(max_size=5),
    inputs=st.lists(st.builds(pb.ModelInferRequest.InferInputTensor, name=st.text(max_size=3)), max_size=3),
    raw_input_contents=st.lists(st.binary(max_size=200), max_size=4),
)


def expect_as_protobuf(data: bytes) -> None:
    """The same contents and the same rest, or both refuse it."""
    try:
        expected = pb.ModelInferRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            RawRequest.read(data)
        return
    found = RawRequest.read(data)
    assert [bytes(raw) for raw in found.raw] == list(expected.raw_input_contents)
    assert all(
        getattr(found.message, name) == getattr(expected, name) for name in ("model_name", "id", "inputs")
    )


@given(st.lists(MESSAGES, min_size=1, max_size=3))
def test_fields_in_any_order(messages: list[pb.ModelInferRequest]) -> None:
    """Messages one behind the other are one message, whose fields come in another order."""
    expect_as_protobuf(b"".join(message.SerializeToString() for message in messages))


@given(MESSAGES, st.data())
def test_what_is_damaged_or_cut(message: pb.ModelInferRequest, data: st.DataObject) -> None:
    whole = bytearray(message.SerializeToString())
    if whole:
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    expect_as_protobuf(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


def test_more_fields_than_are_looked_at() -> None:
    message = pb.ModelInferRequest(raw_input_contents=[bytes([i]) for i in range(2 * MOST_FIELDS)])
    expect_as_protobuf(message.SerializeToString())


def test_large_contents_are_not_copied() -> None:
    data = pb.ModelInferRequest(model_name="a", raw_input_contents=[bytes(1 << 20)]).SerializeToString()
    (raw,) = RawRequest.read(data).raw
    assert isinstance(raw, memoryview)
    assert raw.obj is data
