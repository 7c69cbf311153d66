"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.redis_server import RedisServer

# Servers of tests have the models that the test gives them, and never write into the user's own.
os.environ.setdefault("CONVLENS_INSTALLED_MODELS", "off")
HOME = tempfile.TemporaryDirectory(prefix="convlens-home-")
os.environ["XDG_DATA_HOME"] = HOME.name

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real networks and photographs; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("CONVLENS_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set CONVLENS_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """A running, empty Redis; tests that stop it start it again."""
    shared_redis.flush()
    return shared_redis


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with one quick network."""
    from support.tiny_model import add_tiny_model

    return add_tiny_model(tmp_path_factory.mktemp("models"))
