"""Connections that have gone silent, on real sockets: both ends notice, and neither asks too often."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from support.http2 import Connection
from support.server_thread import serving
from support.silent_proxy import SilentProxy

from convlens.v1 import model_pb2, model_pb2_grpc
from convlens_client import Client
from convlens_client.channel import OPTIONS
from convlens_server.app import App
from convlens_server.settings import ServerSettings

FEATURES = "/convlens.v1.InspectionService/StreamFeatures"
SHORT = {
    "grpc.keepalive_time_ms": 300,
    "grpc.keepalive_timeout_ms": 300,
    "grpc.http2.ping_timeout_ms": 300,
}


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    with serving(client_pings=0.2, keepalive=1.0, max_calls=1, threads=1, lanes=1) as app:
        yield app


def test_the_client_pings_no_more_often_than_a_server_allows() -> None:
    ours = dict(OPTIONS)
    allowed = ServerSettings.model_fields["client_pings"].default
    assert ours["grpc.keepalive_time_ms"] >= 1000 * allowed
    assert ours["grpc.keepalive_time_ms"] + ours["grpc.http2.ping_timeout_ms"] <= 25_000


def test_a_call_on_a_connection_gone_silent_is_made_again_on_a_new_one(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convlens_client.channel.OPTIONS", tuple((dict(OPTIONS) | SHORT).items()))
    with SilentProxy(app.address) as proxy, Client(proxy.address, timeout=10) as client:
        assert client.list_models()
        proxy.silence()
        began = time.monotonic()
        assert client.list_models()
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("calls", [0, 1])
def test_pings_within_the_policy_cost_nobody_the_connection(app: App, calls: int) -> None:
    """A dozen, with a call that hears nothing, and without one."""
    options: list[tuple[str, Any]] = [
        *(SHORT | {"grpc.keepalive_permit_without_calls": 1}).items(),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    states: list[grpc.ChannelConnectivity] = []
    with grpc.insecure_channel(app.address, options) as channel:
        grpc.channel_ready_future(channel).result(5)
        channel.subscribe(states.append)
        quiet = [channel.stream_stream(FEATURES)(iter(lambda: time.sleep(5), None)) for _ in range(calls)]
        time.sleep(4)
        assert not any(call.done() for call in quiet)
        for call in quiet:
            call.cancel()
    assert set(states) == {grpc.ChannelConnectivity.READY}


def test_who_has_vanished_gives_the_place_back(app: App) -> None:
    """The only one there is; a ping that nobody answers ends the call."""
    with Connection(app.address) as vanished, grpc.insecure_channel(app.address) as channel:
        vanished.begin(FEATURES)
        vanished.pump(0.2)
        list_models = model_pb2_grpc.ModelServiceStub(channel).ListModels
        with pytest.raises(grpc.RpcError) as raised:
            list_models(model_pb2.ListModelsRequest(), timeout=5)
        assert "1 calls are under way" in str(raised.value.details())
        time.sleep(2.5)
        assert list_models(model_pb2.ListModelsRequest(), timeout=5).models
