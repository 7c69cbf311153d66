"""What hostile clients cost a server, and ordinary callers beside them: memory, and latency.

    python -m benchmarks.withstanding edge --seconds 300

Attackers come again and again, from a process of their own: strangers who announce 63 MiB and send 62,
strangers with bombs of gzip, both again with a key, and readers with a key who stop after the first window of
a reply of 28 MB. An ordinary caller of another tenant classifies a picture all the while.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from convlens import wire
from convlens.errors import ConvLensError
from convlens.v1 import image_pb2, inspection_pb2
from convlens_client import Client
from convlens_server.identity.keys import KeyFile, issue

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from support.front_end import FrontEnd
from support.http2 import Connection, message_head

MIB: Final = 1 << 20
CLASSIFY: Final = "/convlens.v1.InspectionService/Classify"
ACTIVATIONS: Final = "/convlens.v1.InspectionService/GetActivations"
BOMB: Final = gzip.compress(bytes(63 * MIB))
ROOM: Final = {"upload_megabytes": 256, "reply_megabytes": 256, "upload_seconds": 5, "reader_seconds": 5}
EACH: Final = 8
"""Connections of each kind of attack."""
BOUND: Final = 2 * 256 + 2 * 64 + 256 + 256 * 100 // 16 + 160
"""MiB beyond what an idle server holds, by docs/design/serving.md with these settings."""

Attack = Callable[[Connection, dict[str, str]], None]


def upload(connection: Connection, headers: dict[str, str]) -> None:
    stream = connection.begin(CLASSIFY, **headers)
    connection.send(stream, message_head(63 * MIB) + bytes(62 * MIB), seconds=5)


def bomb(connection: Connection, headers: dict[str, str]) -> None:
    stream = connection.begin(CLASSIFY, grpc_encoding="gzip", **headers)
    connection.send(stream, message_head(len(BOMB), compressed=True) + BOMB, end=True)
    connection.pump(2)


def stop_reading(connection: Connection, headers: dict[str, str]) -> None:
    pixels = image_pb2.Image(tensor=wire.to_tensor(np.zeros((96, 96, 3), np.uint8)))
    layers = ["features.conv1", "features.relu1"]
    data = inspection_pb2.GetActivationsRequest(images=[pixels] * 38, layers=layers).SerializeToString()
    stream = connection.begin(ACTIVATIONS, **headers)
    connection.send(stream, message_head(len(data)) + data, end=True)
    time.sleep(20)


ATTACKS: Final[tuple[tuple[Attack, bool], ...]] = (
    (upload, False),
    (bomb, False),
    (upload, True),
    (bomb, True),
    (stop_reading, True),
)


def edge(options: Any) -> None:
    """Print latency and memory without attackers and beside them."""
    with tempfile.TemporaryDirectory() as folder:
        (hostile, first), (ordinary, second) = issue("hostile"), issue("ordinary")
        keys = Path(folder) / "keys.json"
        keys.write_text(KeyFile(keys=(first, second)).model_dump_json())
        with FrontEnd(api_keys=keys, redis="", threads=2, lanes=2, **ROOM) as server:
            idle = server.memory()
            print("| | calls | failed | p50 ms | p99 ms | most MiB beyond idle |\n|---|---|---|---|---|---|")
            row("alone", server, ordinary, idle, min(60.0, options.seconds))
            command = [sys.executable, "-m", "benchmarks.edge", server.address, hostile]
            with subprocess.Popen(command) as attackers:
                row("attacked", server, ordinary, idle, options.seconds)
                attackers.kill()
            print(f"bound: {BOUND} MiB")


def attack_all(address: str, key: str) -> None:
    """All attacks at once, until this process is killed."""
    for attack, known in ATTACKS:
        headers = {"authorization": f"Bearer {key}"} if known else {}
        for _ in range(EACH):
            threading.Thread(target=again, args=[address, attack, headers]).start()


def again(address: str, attack: Attack, headers: dict[str, str]) -> None:
    while True:
        with suppress(OSError), Connection(address) as connection:
            attack(connection, headers)
        time.sleep(0.2)


def row(name: str, server: FrontEnd, key: str, idle: int, seconds: float) -> None:
    picture = wire.encode_image(np.zeros((96, 96, 3), np.uint8))
    spent, failed, most, until = [], 0, 0, time.monotonic() + seconds
    with Client(server.address, token=key, timeout=20) as client:
        while time.monotonic() < until:
            began = time.perf_counter()
            try:
                client.classify(picture)
                spent.append(1e3 * (time.perf_counter() - began))
            except ConvLensError:
                failed += 1
            most = max(most, server.memory() - idle)
            time.sleep(0.02)
    p50, p99 = np.percentile(spent, [50, 99])
    print(f"| {name} | {len(spent)} | {failed} | {p50:.1f} | {p99:.1f} | {most / MIB:.0f} |", flush=True)


if __name__ == "__main__":
    attack_all(*sys.argv[1:])
