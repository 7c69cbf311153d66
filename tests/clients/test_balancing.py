"""A name with several addresses: calls go to all the servers behind it, and past one that has gone."""

from __future__ import annotations

from collections import Counter
from concurrent import futures

import grpc
import pytest

from convlens.v1 import model_pb2, model_pb2_grpc
from convlens_client import AsyncClient, Client


class _Counted(model_pb2_grpc.ModelServiceServicer):
    def __init__(self) -> None:
        self.calls = 0

    def ListModels(self, request, context):  # noqa: N802
        self.calls += 1
        return model_pb2.ListModelsResponse()


class _Server:
    def __init__(self) -> None:
        self.service = _Counted()
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        model_pb2_grpc.add_ModelServiceServicer_to_server(self.service, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
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
