"""What hostile clients cost a server, and ordinary callers beside them: memory, and latency.

    python -m benchmarks.withstanding edge --seconds 300

Attackers come again and again, each kind from a process of its own, which leaves the CPUs to the server as
other machines would: strangers who announce 63 MiB and send 62, strangers with bombs of gzip, both again with
a key, and readers with a key who stop after the first window of a reply of 28 MB. An ordinary
caller of another tenant classifies a picture all the while. What attackers sent is counted: they did attack.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
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
UPLOAD: Final = message_head(63 * MIB) + bytes(62 * MIB)
ROOM: Final = {
    "upload_megabytes": 512,
    "reply_megabytes": 256,
    "upload_seconds": 5,
    "reader_seconds": 5,
    "max_connections": 128,
    "connection_streams": 16,
    "max_calls": 1000,
}
EACH: Final = 8
"""Connections of each kind of attack."""
BOUND: Final = 512 + 4 * 64 + 256 + 128 * 16 // 16 + 1000 * 40 // 1024
"""MiB beyond models and computation, by docs/design/serving.md with these settings."""

Attack = Callable[[Connection, dict[str, str]], int]
"""Attacks on a connection, with the headers of a credential; gives the bytes that it sent."""


def upload(connection: Connection, headers: dict[str, str]) -> int:
    stream = connection.begin(CLASSIFY, **headers)
    sent = connection.send(stream, UPLOAD, seconds=5)
    wait(connection, stream)
    return sent


def bomb(connection: Connection, headers: dict[str, str]) -> int:
    stream = connection.begin(CLASSIFY, grpc_encoding="gzip", **headers)
    sent = connection.send(stream, message_head(len(BOMB), compressed=True) + BOMB, end=True)
    wait(connection, stream)
    return sent


def wait(connection: Connection, stream: int) -> None:
    """For what the server says to that, a while."""
    until = time.monotonic() + 7
    while stream not in connection.ended and not connection.closed and time.monotonic() < until:
        connection.pump(1, once=True)


def stop_reading(connection: Connection, headers: dict[str, str]) -> int:
    pixels = image_pb2.Image(tensor=wire.to_tensor(np.zeros((96, 96, 3), np.uint8)))
    layers = ["features.conv1", "features.relu1"]
    data = inspection_pb2.GetActivationsRequest(images=[pixels] * 38, layers=layers).SerializeToString()
    stream = connection.begin(ACTIVATIONS, **headers)
    sent = connection.send(stream, message_head(len(data)) + data, end=True)
    time.sleep(20)
    return sent


ATTACKS: Final[tuple[tuple[Attack, bool], ...]] = (
    (upload, False),
    (bomb, False),
    (upload, True),
    (bomb, True),
    (stop_reading, True),
)


def edge(options: Any) -> None:
    """Print latency and memory without attackers and beside them, and what these sent."""
    issued = [issue(who) for who in ("ordinary", *(f"hostile-{number}" for number in range(options.keys)))]
    ordinary, *hostile = (key for key, _ in issued)
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.json"
        keys.write_text(KeyFile(keys=tuple(kept for _, kept in issued)).model_dump_json())
        with FrontEnd(api_keys=keys, redis="", threads=2, lanes=2, **ROOM) as server:
            idle = server.memory()
            print(f"bound: {BOUND} MiB beyond models and computation; idle: {idle / MIB:.0f} MiB")
            print("| | calls | failed | p50 ms | p99 ms | most MiB beyond idle |\n|---|---|---|---|---|---|")
            row("alone", server, ordinary, idle, min(60.0, options.seconds))
            command = [sys.executable, "-m", "benchmarks.edge", server.address]
            attackers = [
                subprocess.Popen([*command, str(number), *hostile], stdout=subprocess.PIPE, text=True)
                for number in range(len(ATTACKS))
            ]
            for attacker in attackers:
                assert attacker.stdout is not None
                attacker.stdout.readline()  # It attacks now.
            row("attacked", server, ordinary, idle, options.seconds)
            for attacker, (attack, known) in zip(attackers, ATTACKS, strict=True):
                attacker.terminate()
                *_, last = attacker.communicate()[0].splitlines()
                print(f"{attack.__name__}, {'with' if known else 'without'} a key: {last}")
            row("afterwards", server, ordinary, idle, min(30.0, options.seconds))


def attack_all(address: str, number: str, *keys: str) -> None:
    """One kind of attack, until this process is ended; prints what became of it, every second."""
    os.nice(10)
    attack, known = ATTACKS[int(number)]
    seen = Counter[str]()
    for place in range(EACH):
        headers = {"authorization": f"Bearer {keys[place % len(keys)]}"} if known else {}
        threading.Thread(target=again, args=[address, attack, headers, seen], daemon=True).start()
    while True:
        time.sleep(1)
        print(json.dumps(seen), flush=True)


def again(address: str, attack: Attack, headers: dict[str, str], seen: Counter[str]) -> None:
    while True:
        seen["begun"] += 1
        with suppress(OSError), Connection(address) as connection:
            seen["bytes"] += attack(connection, headers)
            seen["ended by the server"] += bool(connection.ended) or connection.closed
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
