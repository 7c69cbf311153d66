"""A name with several addresses: calls go to all the servers behind it, and past one that has gone."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent import futures
from queue import Queue

import grpc
import pytest
from grpc import aio

from convlens.v1 import model_pb2, model_pb2_grpc
from convlens_client import AsyncClient, Client


class _Counted(model_pb2_grpc.ModelServiceServicer):
    def __init__(self) -> None:
        self.calls = 0

    def ListModels(self, request, context):  # noqa: N802
        self.calls += 1
        return model_pb2.ListModelsResponse()


class _Server:
    def __init__(self, port: int = 0) -> None:
        self.service = _Counted()
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        model_pb2_grpc.add_ModelServiceServicer_to_server(self.service, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()


@pytest.fixture
def servers():
    both = _Server(), _Server()
    yield both
    for server in both:
        server.server.stop(None).wait()


def address(servers: tuple[_Server, ...]) -> str:
    return "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


def test_calls_go_to_all_addresses_in_turn(servers) -> None:
    with Client(address(servers)) as client:
        for _ in range(20):
            client.list_models()
        counts = Counter({server.port: server.service.calls for server in servers})
        assert min(counts.values()) >= 5, counts  # The first may come before the second connection is there.
        servers[0].server.stop(None).wait()
        for _ in range(5):
            client.list_models()
    assert servers[1].service.calls > counts[servers[1].port]


async def test_calls_of_the_asynchronous_client_do_too(servers) -> None:
    async with AsyncClient(address(servers)) as client:
        for _ in range(20):
            await client.list_models()
    assert min(server.service.calls for server in servers) >= 5


class _Slow(model_pb2_grpc.ModelServiceServicer):
    """Its event loop stands still in a call while others come, which it has not taken when it is to end."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def ListModels(self, request, context):  # noqa: N802
        time.sleep(0.1)
        self.end.set()
        return model_pb2.ListModelsResponse()


async def serve_until_called(ports: Queue[int]) -> None:
    service, server = _Slow(), aio.server()
    model_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    ports.put(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await service.end.wait()
    await server.stop(5)


def test_calls_that_a_server_had_not_taken_when_it_went_are_asked_again() -> None:
    ports: Queue[int] = Queue()
    with futures.ThreadPoolExecutor(13) as pool:
        gone = pool.submit(asyncio.run, serve_until_called(ports))
        with Client(f"127.0.0.1:{(port := ports.get())}") as client:
            calls = [pool.submit(client.list_models) for _ in range(12)]
            gone.result(10)
            second = _Server(port)
            assert [call.result(10) for call in calls] == [()] * 12
        second.server.stop(None).wait()
