"""The memory of a real server while clients send what does not end, and read nothing."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.front_end import FrontEnd
from support.http2 import Connection, message_head

from convlens import wire
from convlens.v1 import image_pb2, inspection_pb2
from convlens_client import Client
from convlens_server.identity.keys import KeyFile, issue

pytestmark = pytest.mark.slow

MIB = 1 << 20
CLASSIFY = "/convlens.v1.InspectionService/Classify"
ACTIVATIONS = "/convlens.v1.InspectionService/GetActivations"
BOMB = gzip.compress(bytes(63 * MIB))
ROOM = 256
"""MiB that replies, that requests of one caller, and that half of all requests may hold."""


class Besieged:
    """A server with one key, and a caller who has it."""

    def __init__(self, folder: Path) -> None:
        self.key, kept = issue("red")
        (folder / "keys.json").write_text(KeyFile(keys=(kept,)).model_dump_json())
        self.server = FrontEnd(
            api_keys=folder / "keys.json",
            redis="",
            models=folder / "models",
            installed_models="off",
            upload_megabytes=2 * ROOM,
            reply_megabytes=ROOM,
            upload_seconds=5,
            reader_seconds=2,
        )
        self.client = Client(self.server.address, token=self.key)
        self.picture = wire.encode_image(np.zeros((96, 96, 3), np.uint8))
        for _ in range(50):
            self.client.classify(self.picture)

    def peak(self, attack: Callable[[Connection], None], count: int, seconds: float) -> int:
        """MiB that the server grows by while so many connections attack and the caller is served."""
        before = highest = self.server.memory()
        connections = [Connection(self.server.address) for _ in range(count)]
        threads = [threading.Thread(target=attack, args=[connection]) for connection in connections]
        for thread in threads:
            thread.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until or any(thread.is_alive() for thread in threads):
            highest = max(highest, self.server.memory())
            self.client.classify(self.picture)
        for connection in connections:
            connection.close()
        return (highest - before) // MIB


@pytest.fixture
def besieged(tmp_path: Path) -> Iterator[Besieged]:
    machine = Besieged(tmp_path)
    with machine.server, machine.client:
        yield machine


@pytest.mark.parametrize(
    ("method", "known", "most"),
    [
        (CLASSIFY, False, 16),
        (CLASSIFY, True, ROOM + 128),
        ("/grpc.health.v1.Health/Check", False, 2 * 64 + 128),
    ],
)
def test_uploads_that_do_not_end(besieged: Besieged, method: str, known: bool, most: int) -> None:
    headers = {"authorization": f"Bearer {besieged.key}"} if known else {}

    def attack(connection: Connection) -> None:
        stream = connection.begin(method, **headers)
        connection.send(stream, message_head(63 * MIB) + bytes(62 * MIB), seconds=4)

    assert besieged.peak(attack, 24, 4) < most


@pytest.mark.parametrize(("known", "most"), [(False, 16), (True, 2 * ROOM + 128)])
def test_bombs(besieged: Besieged, known: bool, most: int) -> None:
    headers = {"authorization": f"Bearer {besieged.key}"} if known else {}

    def attack(connection: Connection) -> None:
        stream = connection.begin(CLASSIFY, grpc_encoding="gzip", **headers)
        connection.send(stream, message_head(len(BOMB), compressed=True) + BOMB, end=True)
        connection.pump(2)

    assert besieged.peak(attack, 24, 4) < most


def test_readers_who_stop(besieged: Besieged) -> None:
    """Fifty, who ask for 28 MB each."""
    pixels = image_pb2.Image(tensor=wire.to_tensor(np.zeros((96, 96, 3), np.uint8)))
    layers = ["features.conv1", "features.relu1"]
    data = inspection_pb2.GetActivationsRequest(images=[pixels] * 38, layers=layers).SerializeToString()

    def attack(connection: Connection) -> None:
        stream = connection.begin(ACTIVATIONS, authorization=f"Bearer {besieged.key}")
        connection.send(stream, message_head(len(data)) + data, end=True)

    assert besieged.peak(attack, 50, 8) < ROOM + 128
