"""Real servers, and the channels to them."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from support.repository import add_copy
from support.server_thread import serving

from convlens import wire
from convlens.v1 import image_pb2
from convlens_models.manifest import Manifest
from convlens_models.repository import ModelRepository
from convlens_server.app import App


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """The embedded model's."""
    return ModelRepository().get().manifest


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A server without Redis, with the embedded model, and two versions of a copy of it."""
    root = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        add_copy(root, "copy", version)
    with serving(models=root, threads=1, max_batch_pixels=600_000, max_value_megabytes=32) as app:
        yield app


@pytest.fixture(scope="session")
def channel(app: App) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(app.address) as channel:
        yield channel


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """A picture, (H, W, 3) uint8, larger than the embedded model's input, with structure in it."""
    y, x = np.mgrid[:120, :150]
    waves = np.stack([np.sin(x / 5), np.sin((x + y) / 9), np.cos(y / 4)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 20, waves.shape)
    return np.clip(waves * 90 + 128 + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def image(pixels: np.ndarray) -> image_pb2.Image:
    return image_pb2.Image(encoded=wire.encode_image(pixels))
