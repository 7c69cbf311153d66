"""A server, a worker, and 60 pictures with their features, made once for all tests of collections."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from support.collection_service import COUNT, LAYER, PHOTOS, SETS, Place
from support.collections import picture
from support.redis_server import RedisServer
from support.server_thread import serving
from support.worker_process import WorkerProcess

from convlens.v1 import image_pb2, inspection_pb2
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository
from convlens_server.backends.cache import LruCache
from convlens_server.backends.onnx_backend import OnnxBackend
from convlens_server.backends.providers import Compute
from convlens_workers.settings import WorkerSettings


@pytest.fixture(scope="package")
def place(shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """60 pictures in the collection "photos", with all features of one layer."""
    shared_redis.flush()
    folder = tmp_path_factory.mktemp("place")
    settings = {
        "redis": shared_redis.url,
        "artifacts": str(folder / "artifacts"),
        "models": folder / "models",
    }
    worker = WorkerProcess(WorkerSettings(**settings), folder)
    limits = {"max_collection_images": 70, "max_image_bytes": 300_000, "indexes": folder / "indexes"}
    try:
        with serving(**settings, **limits) as app, grpc.insecure_channel(app.address) as channel:
            place = Place(channel, folder / "artifacts")
            place.create(PHOTOS)
            place.add(PHOTOS, {f"{n}.png": picture(n) for n in range(COUNT)})
            worker.ready()
            poolings = [inspection_pb2.Pooling.Value(f"POOLING_{name.upper()}") for name in SETS]
            place.extract(PHOTOS, poolings=poolings)
            yield place
    finally:
        worker.end()


@pytest.fixture(scope="package")
def inputs() -> np.ndarray:
    """What the network gets to see of the pictures."""
    manifest = ModelRepository().get().manifest
    return np.stack([to_input(image_pb2.Image(encoded=picture(n)), manifest) for n in range(COUNT)])


@pytest.fixture(scope="package")
def values(inputs: np.ndarray) -> np.ndarray:
    backend = OnnxBackend(ModelRepository().get(), LruCache(1e9), Compute(lambda: 1))
    return backend.forward(inputs, [LAYER])[LAYER]


@pytest.fixture(scope="package")
def vectors(values: np.ndarray) -> dict[str, np.ndarray]:
    flat = values.reshape(COUNT, values.shape[1], -1)
    return {"mean": flat.mean(axis=2), "max": flat.max(axis=2), "flatten": flat.reshape(COUNT, -1)}
