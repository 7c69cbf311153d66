"""A message beyond a limit, of the client or of the server, is told of in our words, with the field."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from support.server_thread import serving

from convlens.errors import ResourceExhausted
from convlens_client import Client
from convlens_client.channel import OPTIONS

PIXELS = np.zeros((3, 400, 400), np.float32)
"""1.8 MiB."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(max_request_bytes=1 << 20, threads=1, lanes=1) as app:
        yield app.address


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (1 << 20, "a request may have 1 MiB; send fewer or smaller images at a time"),
        (
            1 << 26,
            "the server takes 1 MiB (its CONVLENS_MAX_REQUEST_BYTES); send fewer or smaller images at a time",
        ),
    ],
)
def test_the_request_names_its_largest_field(
    address: str, limit: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tuple((dict(OPTIONS) | {"grpc.max_send_message_length": limit}).items())
    monkeypatch.setattr("convlens_client.channel.OPTIONS", options)
    with Client(address) as client, pytest.raises(ResourceExhausted) as raised:
        client.classify(PIXELS)
    error = raised.value
    assert (error.field, error.reason) == ("images[0].tensor.data", "MESSAGE_SIZE")
    assert error.message == f"images[0].tensor.data: a message of 1.8 MiB: {text}"


def test_the_reply_says_to_ask_for_less(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = tuple((dict(OPTIONS) | {"grpc.max_receive_message_length": 1 << 10}).items())
    monkeypatch.setattr("convlens_client.channel.OPTIONS", options)
    with Client(address) as client, pytest.raises(ResourceExhausted, match="ask for less at a time"):
        client.activations(np.zeros((3, 96, 96), np.float32), "features.conv1")
