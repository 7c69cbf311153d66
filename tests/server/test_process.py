"""The server as a process: its start, its end, and what it does not load."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from convlens.v1 import model_pb2, model_pb2_grpc
from convlens_server.services import LONG_SERVICES, SERVICES

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def environment(folder: Path, **settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CONVLENS_")}
    settings = {"listen": "127.0.0.1:0", "redis": "", "models": str(folder), **settings}
    return {**kept, **{f"CONVLENS_{name.upper()}": value for name, value in settings.items()}}


@contextmanager
def process(folder: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `python -m convlens_server`, with the address of its ready line."""
    running = subprocess.Popen(
        [sys.executable, "-m", "convlens_server"],
        env=environment(folder, **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with running:
        try:
            assert running.stdout is not None
            ready = re.fullmatch(r"convlens-server ready on (\S+) \(.*\)\n", running.stdout.readline())
            assert ready is not None, running.communicate()[1]
            yield running, ready[1]
        finally:
            running.kill()


def test_it_serves_without_torch_until_sigterm_then_exits_0(tmp_path: Path) -> None:
    with process(tmp_path) as (running, address), grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", *sorted(set(SERVICES) - LONG_SERVICES)):
            assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
        models = model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest()).models
        assert [model.name for model in models] == ["patterns"]
        assert "libtorch" not in Path(f"/proc/{running.pid}/maps").read_text()
        running.send_signal(signal.SIGTERM)
        _, log = running.communicate(timeout=20)
        assert running.returncode == 0, log
        assert "ModelService/ListModels OK" in log
        assert "draining" in log


def test_health_says_not_serving_before_the_end(tmp_path: Path) -> None:
    """A call in flight (the watch itself) holds the server open for its grace."""
    with process(tmp_path, grace="1") as (running, address), grpc.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        running.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert running.wait(20) == 0


def test_importing_the_server_loads_no_torch() -> None:
    code = "import sys, convlens_server.app, convlens_server.__main__; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"listen": "127.0.0.1:99999"}, "between 0 and 65535"),
        ({"listen": "256.0.0.1:0", "open_to_all": "1"}, "cannot listen on 256.0.0.1:0"),
        ({"listen": "0.0.0.0:0"}, "0.0.0.0:0 is no loopback address"),
        ({"lanes": "0"}, "CONVLENS_LANES"),
        ({"threads": "many"}, "CONVLENS_THREADS"),
        ({"log_level": "LOUD"}, "CONVLENS_LOG_LEVEL"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used_end_it_with_one_clear_message(tmp_path: Path, settings, text) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "convlens_server"],
        env=environment(tmp_path, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert text in run.stderr


def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    with process(tmp_path) as (_, address):
        run = subprocess.run(
            [sys.executable, "-m", "convlens_server"],
            env=environment(tmp_path, listen=address),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert run.returncode == 1
    assert f"cannot listen on {address}" in run.stderr


def test_a_taken_port_of_the_metrics_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        metrics = f"127.0.0.1:{taken.getsockname()[1]}"
        run = subprocess.run(
            [sys.executable, "-m", "convlens_server"],
            env=environment(tmp_path, metrics_listen=metrics),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert run.returncode == 1
    assert f"convlens-server: cannot tell metrics on {metrics}" in run.stderr
    assert "Traceback" not in run.stderr


def test_reflection_knows_every_service(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(SERVICES) <= set(database.get_services())
    assert {"google.longrunning.Operations", "convlens.v1.JobService"} <= set(SERVICES)
    for service in SERVICES:
        assert database.FindFileContainingSymbol(service).service


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks for glibc")
def test_malloc_is_told_to_keep_freed_memory() -> None:
    code = "from convlens_server.serving.malloc import keep_freed_memory; print(keep_freed_memory())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"
