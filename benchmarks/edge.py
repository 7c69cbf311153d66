"""What hostile clients cost a server, and ordinary callers beside them: memory, and latency.

    python -m benchmarks.withstanding edge --seconds 300

Attackers come again and again, each kind from a process of its own, which leaves the CPUs to the server as
other machines would: strangers who announce 63 MiB and send 62, strangers with bombs of gzip; with the keys
of some tenants the same, whole messages of 62 MiB that are worth nothing, readers who stop after the first
window of a reply of 28 MB, RISE with the most masks, and pictures that take long to decode, of callers who
leave. Ordinary callers of two other tenants classify a picture all the while. What attackers sent is counted:
they did attack.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from convlens import wire
from convlens.errors import ConvLensError
from convlens.v1 import attribution_pb2, image_pb2, inspection_pb2
from convlens_client import Client
from convlens_server.identity.keys import KeyFile, issue

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from support.front_end import FrontEnd
from support.http2 import Connection, message_head

MIB: Final = 1 << 20
CLASSIFY: Final = "/convlens.v1.InspectionService/Classify"
ACTIVATIONS: Final = "/convlens.v1.InspectionService/GetActivations"
RISE: Final = "/convlens.v1.AttributionService/Attribute"
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
COMPUTATION: Final = {"threads": 2, "lanes": 2, "max_batch_pixels": 1 << 20}
BOUND: Final = 512 + 4 * 64 + 256 + 128 * 16 // 16 + 1000 * 40 // 1024
"""MiB beyond models and computation, by docs/design/serving.md with these settings."""
COMPUTED: Final = 2 * (280 + 192)
"""MiB that two threads compute with: pixels forward (docs/guides/sizing.md), a picture of 64 megapixels."""
ORDINARY: Final = 2
"""Tenants who attack nobody, each with a caller."""

Attack = Callable[[Connection, dict[str, str]], int]
"""Attacks on a connection, with the headers of a credential; gives the bytes that it sent."""


def upload(connection: Connection, headers: dict[str, str]) -> int:
    stream = connection.begin(CLASSIFY, **headers)
    sent = connection.send(stream, _upload(), seconds=5)
    wait(connection, stream)
    return sent


def bomb(connection: Connection, headers: dict[str, str]) -> int:
    return call(connection, CLASSIFY, _bomb(), headers, compressed=True)


def whole(connection: Connection, headers: dict[str, str]) -> int:
    """What some 160 Mbit/s bring."""
    stream, data, sent = connection.begin(CLASSIFY, **headers), _whole(), 0
    while sent < len(data) and stream not in connection.ended and not connection.closed:
        sent += connection.send(stream, data[sent : sent + MIB], end=sent + MIB >= len(data), seconds=2)
        time.sleep(0.05)
    wait(connection, stream)
    return sent


def rise(connection: Connection, headers: dict[str, str]) -> int:
    request = attribution_pb2.AttributeRequest(images=[picture()])
    request.attributions.add().rise.masks = 20_000
    return call(connection, RISE, request.SerializeToString(), headers)


def decode(connection: Connection, headers: dict[str, str]) -> int:
    request = inspection_pb2.ClassifyRequest(images=[image_pb2.Image(encoded=_large())] * 8)
    return call(connection, CLASSIFY, request.SerializeToString(), headers | {"grpc_timeout": "1S"})


def call(
    connection: Connection, method: str, data: bytes, headers: dict[str, str], *, compressed: bool = False
) -> int:
    encoding = {"grpc_encoding": "gzip"} if compressed else {}
    stream = connection.begin(method, **headers, **encoding)
    sent = connection.send(stream, message_head(len(data), compressed=compressed) + data, end=True)
    wait(connection, stream)
    return sent


def picture() -> image_pb2.Image:
    return image_pb2.Image(tensor=wire.to_tensor(np.zeros((96, 96, 3), np.uint8)))


@cache
def _upload() -> bytes:
    return message_head(63 * MIB) + bytes(62 * MIB)


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes(63 * MIB))


@cache
def _whole() -> bytes:
    image = image_pb2.Image(encoded=bytes(62 * MIB))
    data = inspection_pb2.ClassifyRequest(images=[image]).SerializeToString()
    return message_head(len(data)) + data


@cache
def _large() -> bytes:
    """A few kilobytes that decode to 59 megapixels."""
    file = io.BytesIO()
    Image.new("L", (65_500, 900)).save(file, "JPEG", quality=1, optimize=True)
    return file.getvalue()


def wait(connection: Connection, stream: int) -> None:
    """For what the server says to that, a while."""
    until = time.monotonic() + 7
    while stream not in connection.ended and not connection.closed and time.monotonic() < until:
        connection.pump(1, once=True)


def stop_reading(connection: Connection, headers: dict[str, str]) -> int:
    layers = ["features.conv1", "features.relu1"]
    data = inspection_pb2.GetActivationsRequest(images=[picture()] * 38, layers=layers).SerializeToString()
    stream = connection.begin(ACTIVATIONS, **headers)
    sent = connection.send(stream, message_head(len(data)) + data, end=True)
    time.sleep(20)
    return sent


ATTACKS: Final[tuple[tuple[Attack, bool], ...]] = (
    (upload, False),
    (bomb, False),
    (upload, True),
    (bomb, True),
    (whole, True),
    (stop_reading, True),
    (rise, True),
    (decode, True),
)


def edge(options: Any) -> None:
    """Print latency and memory without attackers and beside them, and what these sent."""
    tenants = [f"ordinary-{number}" for number in range(ORDINARY)]
    issued = [issue(who) for who in (*tenants, *(f"hostile-{number}" for number in range(options.keys)))]
    keys = [key for key, _ in issued]
    ordinary, hostile = keys[:ORDINARY], keys[ORDINARY:]
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "keys.json"
        known.write_text(KeyFile(keys=tuple(kept for _, kept in issued)).model_dump_json())
        models = {"models": Path(folder) / "models", "installed_models": "off"}  # The embedded one alone.
        with FrontEnd(api_keys=known, redis="", **models, **ROOM, **COMPUTATION) as server:
            row("", server, ordinary, 0, 5)  # What is warm from now on counts as idle.
            idle = server.memory()
            print(f"bound: {BOUND} MiB, and {COMPUTED} to compute with; idle: {idle / MIB:.0f} MiB")
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
            for attacker, (attack, is_known) in zip(attackers, ATTACKS, strict=True):
                attacker.terminate()
                *_, last = attacker.communicate()[0].splitlines()
                print(f"{attack.__name__}, {'with' if is_known else 'without'} a key: {last}")
            row("afterwards", server, ordinary, idle, min(60.0, options.seconds))


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


def row(name: str, server: FrontEnd, keys: list[str], idle: int, seconds: float) -> None:
    """What ordinary callers see, one for each key, and the most that the server holds meanwhile."""
    spent, failed, most, until = list[float](), list[ConvLensError](), 0, time.monotonic() + seconds

    def ordinary(key: str) -> None:
        file = wire.encode_image(np.zeros((96, 96, 3), np.uint8))
        with Client(server.address, token=key, timeout=20) as client:
            while time.monotonic() < until:
                began = time.perf_counter()
                try:
                    client.classify(file)
                    spent.append(1e3 * (time.perf_counter() - began))
                except ConvLensError as error:
                    failed.append(error)
                time.sleep(0.02)

    with ThreadPoolExecutor() as threads:
        callers = [threads.submit(ordinary, key) for key in keys]
        while time.monotonic() < until:
            most = max(most, server.memory() - idle)
            time.sleep(0.02)
    for caller in callers:
        caller.result()
    if name:
        p50, p99 = np.percentile(spent, [50, 99])
        print(
            f"| {name} | {len(spent)} | {len(failed)} | {p50:.1f} | {p99:.1f} | {most / MIB:.0f} |",
            flush=True,
        )
        for text, count in Counter(map(str, failed)).most_common(5):
            print(f"{count} failed: {text}", flush=True)


if __name__ == "__main__":
    attack_all(*sys.argv[1:])
