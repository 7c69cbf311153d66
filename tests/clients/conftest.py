"""A made-up server, and a client of either kind that a test uses in one way."""

from __future__ import annotations

import asyncio
import inspect

import numpy as np
import pytest
from support.command_line import runner
from support.fake_service import FakeService, serving

from convlens import wire
from convlens_client import AsyncClient, Client


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def address(service):
    with serving(service) as address:
        yield address


@pytest.fixture
def pixels():
    """A small picture, (H, W, 3) uint8."""
    return np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)


@pytest.fixture
def photo(tmp_path, pixels):
    """The small picture as a file."""
    path = tmp_path / "photo.png"
    path.write_bytes(wire.encode_image(pixels))
    return str(path)


@pytest.fixture
def run(address, monkeypatch, capsys, tmp_path_factory):
    """Runs a command line against the made-up server, in a folder of its own."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    monkeypatch.setenv("CONVLENS_SERVER", address)
    return runner(capsys)


class Blocking:
    """An AsyncClient or AsyncOperation with blocking methods: one test serves both kinds of client."""

    def __init__(self, inner, loop):
        self._inner, self._loop = inner, loop

    def __getattr__(self, name):
        value = getattr(self._inner, name)
        return self._blocking(value) if callable(value) else value

    def _blocking(self, method):
        def call(*args, **kwargs):
            return self._settle(method(*args, **kwargs))

        return call

    def _settle(self, value):
        if inspect.isasyncgen(value):
            return self._drain(value)
        if inspect.isawaitable(value):
            value = self._loop.run_until_complete(value)
        if isinstance(value, list):
            return [self._settle(item) for item in value]
        return (
            Blocking(value, self._loop) if type(value).__module__.startswith("convlens_client.aio") else value
        )

    def _drain(self, generator):
        try:
            while True:
                yield self._loop.run_until_complete(anext(generator))
        except StopAsyncIteration:
            return
        finally:
            self._loop.run_until_complete(generator.aclose())


@pytest.fixture(params=["sync", "async"])
def connect(request):
    """Makes a client of either kind for an address."""
    if request.param == "sync":
        clients = []
        yield lambda address, **options: clients.append(Client(address, **options)) or clients[-1]
        for client in clients:
            client.close()
        return
    with asyncio.Runner() as runner:
        loop, clients = runner.get_loop(), []

        async def make(address, **options):
            return AsyncClient(address, **options)

        def connect(address, **options):
            clients.append(Blocking(runner.run(make(address, **options)), loop))
            return clients[-1]

        yield connect
        for client in clients:
            client.close()


@pytest.fixture
def client(connect, address):
    return connect(address)
