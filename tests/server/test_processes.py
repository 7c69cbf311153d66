"""Several processes behind one port: calls reach all of them, and they begin and end together."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from support.redis_server import free_port

from convlens.v1 import model_pb2, model_pb2_grpc
from convlens_server.serving.processes import beside, environment, share
from convlens_server.settings import ServerSettings

LISTED = r'grpc_server_handled_total\{grpc_code="OK",grpc_method="ListModels",.*\} (\S+)'


def started(folder: Path, **settings: object) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CONVLENS_")}
    given = {"redis": "", "models": folder, "processes": 2, "warm": "[]", **settings}
    variables = {f"CONVLENS_{name.upper()}": str(value) for name, value in given.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "convlens_server"],
        env=kept | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(folder: Path, **settings: object) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """The parent, and the processes that serve."""
    with started(folder, **settings) as parent:
        try:
            assert parent.stdout is not None
            line = parent.stdout.readline()
            assert re.fullmatch(r"convlens-server ready on \S+ \(quick lane only, 2 processes\)\n", line), (
                line
            )
            yield parent, psutil.Process(parent.pid).children()
        finally:
            parent.kill()


def list_models(address: str) -> None:
    """A call over a connection of its own."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest(), timeout=20)


def free_ports() -> int:
    """The first of two free ports."""
    for _ in range(50):
        first = free_port()
        try:
            with socket.socket() as other:
                other.bind(("127.0.0.1", first + 1))
        except OSError:
            continue
        return first
    raise RuntimeError("no two free ports")


def test_calls_are_spread_and_a_signal_drains_all(tmp_path: Path) -> None:
    address, metrics = f"127.0.0.1:{free_port()}", free_ports()
    with running(tmp_path, listen=address, metrics_listen=f"127.0.0.1:{metrics}") as (parent, children):
        assert len(children) == 2
        for _ in range(40):
            list_models(address)
        counts = []
        for port in (metrics, metrics + 1):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
                found = re.search(LISTED, page.read().decode())
            assert found is not None
            counts.append(float(found[1]))
        assert sum(counts) == 40
        assert min(counts) >= 5
        parent.send_signal(signal.SIGTERM)
        out, log = parent.communicate(timeout=30)
        assert parent.returncode == 0, log
        assert out == ""
        assert log.count("draining") >= 2
        assert not any(child.is_running() for child in children)


def test_one_that_ends_by_itself_ends_all(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with running(tmp_path, listen=address) as (parent, (first, second)):
        second.send_signal(signal.SIGKILL)
        _, log = parent.communicate(timeout=30)
        assert parent.returncode == 1
        assert f"process {second.pid} with code -9 ended by itself" in log
        assert not first.is_running()


def test_they_drain_when_the_parent_is_killed(tmp_path: Path) -> None:
    with running(tmp_path, listen=f"127.0.0.1:{free_port()}") as (parent, children):
        parent.kill()
        until = time.monotonic() + 20
        while any(child.is_running() for child in children):
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"listen": "127.0.0.1:0"}, "need a port to share"),
        ({"listen": "unix:/tmp/x:1"}, "need a port to share"),
        ({"listen": "0.0.0.0:8500"}, "is no loopback address"),
        ({"listen": "127.0.0.1:{}", "warm": '["nobody"]'}, "no model 'nobody'"),
    ],
)
def test_what_cannot_be_served_ends_all(settings: dict[str, str], text: str, tmp_path: Path) -> None:
    listen = settings["listen"].format(free_port())
    with started(tmp_path, **{**settings, "listen": listen}) as parent:
        out, log = parent.communicate(timeout=60)
    assert parent.returncode == 1
    assert out == ""
    assert text in log
    assert "Traceback" not in log


def test_a_port_that_others_share_is_taken_all_the_same(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with running(tmp_path, listen=address):
        for processes in (1, 2):
            with started(tmp_path, listen=address, processes=processes) as other:
                _, log = other.communicate(timeout=30)
            assert other.returncode == 1
            assert f"cannot listen on {address}" in log


def test_shares() -> None:
    settings = ServerSettings(listen="127.0.0.1:8500", redis="", processes=3, threads=8, lanes=2)
    given = [environment(settings, index) for index in range(3)]
    assert [each["CONVLENS_THREADS"] for each in given] == ["3", "3", "2"]
    assert [each["CONVLENS_LANES"] for each in given] == ["1", "1", "1"]
    assert share(1, 4, 3) == 1
    assert (beside("[::1]:9100", 2), beside("", 2)) == ("[::1]:9102", "")
