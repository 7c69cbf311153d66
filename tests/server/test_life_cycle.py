"""The life of a server: what probes hear, when; warm models; what it computes on."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.redis_server import RedisServer
from support.server_thread import serving

from convlens.errors import FailedPrecondition, NotFound
from convlens_client import Client
from convlens_models.runtime import ort
from convlens_server.app import App
from convlens_server.backends.providers import CPU, CUDA, Compute, choose, try_out
from convlens_server.cpus import cpus
from convlens_server.serving.executor import Executor
from convlens_server.settings import ServerSettings

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def asked(address: str, *services: str) -> list[int]:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return [
            stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status for name in services
        ]


def eventually(address: str, service: str, wanted: int) -> bool:
    until = time.monotonic() + 15
    while asked(address, service) != [wanted]:
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_readiness_of_long_services_is_that_of_redis(redis_server: RedisServer, tmp_path: Path) -> None:
    with serving(redis=redis_server.url, artifacts=str(tmp_path)) as app:
        names = ("", "liveness", "readiness", "quick", "long", "convlens.v1.JobService")
        assert asked(app.address, *names) == [SERVING] * 6
        redis_server.kill()
        try:
            assert eventually(app.address, "long", NOT_SERVING)
            assert asked(app.address, *names) == [SERVING] * 4 + [NOT_SERVING] * 2
            with Client(app.address) as client:
                assert client.list_models()
        finally:
            redis_server.start()
        assert eventually(app.address, "convlens.v1.JobService", SERVING)


def test_without_redis_long_services_are_not_ready() -> None:
    with serving() as app:
        assert asked(app.address, "readiness", "quick", "long") == [SERVING, SERVING, NOT_SERVING]


async def test_it_is_alive_before_it_is_ready_and_while_it_drains() -> None:
    """The probes' own port answers while models are loaded and while the last calls end."""
    probes = f"127.0.0.1:{free_port()}"
    starting = asyncio.create_task(
        App.start(
            ServerSettings(listen="127.0.0.1:0", redis="", health_listen=probes, warm=("patterns",), grace=5)
        )
    )
    heard = []
    async with grpc.aio.insecure_channel(probes) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def hear(service: str) -> int:
            request = health_pb2.HealthCheckRequest(service=service)
            return (await stub.Check(request, wait_for_ready=True, timeout=20)).status

        while not starting.done():
            heard.append((await hear("liveness"), await hear("readiness")))
        app = await starting
        assert heard[0] == (SERVING, NOT_SERVING)
        assert await hear("readiness") == SERVING
        assert len(app.models.sessions) == 2
        await app._health.draining()
        assert [await hear("liveness"), await hear("readiness")] == [SERVING, NOT_SERVING]
        await app.stop()


def test_a_model_to_warm_that_is_not_there_is_an_error_at_the_start() -> None:
    with pytest.raises(NotFound, match="nobody"), serving(warm=("nobody",)):
        pass


def test_an_old_connection_is_made_anew_and_no_call_notices() -> None:
    with serving(connection_age=1.0) as app, grpc.insecure_channel(app.address) as channel:
        states: list[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append)
        with Client(app.address) as client:
            until = time.monotonic() + 4
            while time.monotonic() < until:
                assert client.list_models()
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
                time.sleep(0.02)
        assert states.count(grpc.ChannelConnectivity.READY) >= 2


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_cpus_are_those_of_the_container(files: dict[str, str], wanted: float, tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpus(tmp_path) == min(wanted, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("calls", "cpus", "threads"),
    [
        (1, 2, 2),
        (2, 2, 1),
        (9, 2, 1),
        (1, 12, 12),
        (2, 12, 4),
        (3, 12, 4),
        (5, 12, 2),
        (12, 12, 1),
        (99, 12, 1),
    ],
)
def test_a_call_alone_has_all_cpus_and_many_share_them(calls: int, cpus: int, threads: int) -> None:
    executor = Executor(ServerSettings(lanes=cpus, threads=cpus, redis=""))
    executor._places.hold(None, calls)
    assert executor.threads() == threads
    assert executor.threads() * min(calls, cpus) <= cpus
    executor.close()


def device(name: str, megabytes: int = 0) -> ServerSettings:
    return ServerSettings(device=name, device_megabytes=megabytes, redis="")


def test_cuda_where_it_works() -> None:
    def works(_: object) -> None: ...

    assert [name for name, _ in choose(device("auto"), works)] == [CUDA, CPU]
    (name, options), _ = choose(device("cuda:1", megabytes=1 << 10), works)
    assert (name, options["device_id"], options["gpu_mem_limit"]) == (CUDA, 1, 1 << 30)
    assert choose(device("cpu"), works) == [(CPU, {})]


def test_the_cpu_where_cuda_does_not_work(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: object) -> None:
        raise FailedPrecondition("no driver")

    with caplog.at_level("INFO"):
        assert choose(device("auto"), fails) == [(CPU, {})]
    assert [record.message for record in caplog.records] == ["computing on the CPU: no driver"]
    with pytest.raises(FailedPrecondition, match="device = 'cuda:1': no driver"):
        choose(device("cuda:1"), fails)


def test_a_provider_is_tried(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    try_out((CPU, {}))
    with pytest.raises(FailedPrecondition, match="has no CUDAExecutionProvider"):
        try_out((CUDA, {}))
    # A package for GPUs on a machine without one: there, but no session gets it, and it prints why.
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("no libcublas"))
    with pytest.raises(FailedPrecondition, match="ONNX Runtime cannot use CUDAExecutionProvider"):
        try_out((CUDA, {}))
    assert [record.message for record in caplog.records] == ["no libcublas"]


def test_a_session_that_falls_back_from_what_is_demanded_is_refused() -> None:
    fallen = SimpleNamespace(get_providers=lambda: [CPU])
    demanding = Compute(lambda: 1, [(CUDA, {}), (CPU, {})], demanded=True)
    with pytest.raises(FailedPrecondition, match="could not use CUDA"):
        demanding.check(fallen)
    assert Compute(lambda: 1, [(CUDA, {}), (CPU, {})]).check(fallen) is fallen
