"""10,000 images: all of them are extracted, searched and mapped, and no process ever holds them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from support.collections import picture
from support.machine import start_up, stop_up

from convlens_client import Client

COUNT = 10_000
LAYER = "features.relu4_2"
GROWTH = 400 << 20
"""Bytes; the inputs of the network together would be 1.1 GB, the features of all shards are 10 MB."""


class Peaks:
    """The largest resident sizes that the children of a process come to."""

    def __init__(self, pid: int) -> None:
        self._parent = psutil.Process(pid)
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peaks:
        self._look()
        self.first = dict(self.now)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self._look()

    def _look(self) -> None:
        for process in self._parent.children(recursive=True):
            name = f"{process.cmdline()[-1 if 'redis' in process.name() else 2]}:{process.pid}"
            self.now[name] = process.memory_info().rss
            self.most[name] = max(self.most.get(name, 0), self.now[name])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_images_in_bounded_memory(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    process = start_up(tmp_path, "--workers", "2")
    took: dict[str, float] = {}
    try:
        with Client(process.address, timeout=600) as client:
            client.classify(picture(0))
            with Peaks(process.pid) as peaks:
                for name, step in steps(client):
                    began = time.monotonic()
                    step()
                    took[name] = time.monotonic() - began
    finally:
        stop_up(process)
    with capsys.disabled():
        print({name: round(seconds, 1) for name, seconds in took.items()})
        print({name: (peaks.first.get(name, 0) >> 20, most >> 20) for name, most in peaks.most.items()})
    for name, most in peaks.most.items():
        assert most - peaks.first.get(name, most) < GROWTH, name


def steps(client: Client) -> Iterator[tuple[str, object]]:
    """What a user would do, one thing after the other."""
    client.create_collection("many")
    files = ((f"{n}.png", picture(n)) for n in range(COUNT))
    yield "add", lambda: client.add_images("many", files)
    yield "extract", lambda: client.extract_features("many", LAYER, parts=2).result(1200)
    yield "list", lambda: check(len(client.list_images("many")) == COUNT)
    yield "nearest", lambda: check(len(client.nearest("many", "77.png", LAYER).neighbours) == 10)
    yield "build an index", lambda: check(near(client).recall_at_10 >= 0.95)
    yield "approximate", lambda: check(len(near(client).neighbours) == 10)
    yield "top", lambda: check(len(client.top_activations("many", LAYER, 5)) == 9)
    yield "PCA", lambda: check(client.map_collection("many", LAYER).points.shape == (COUNT, 2))


def near(client: Client):
    return client.nearest("many", "77.png", LAYER, approximate=True)


def check(holds: bool) -> None:
    assert holds
