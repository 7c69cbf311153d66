"""Servers with collections: ending, and without the libraries or the Redis that they need."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from support.collection_service import PHOTOS, Place, features
from support.collections import picture
from support.redis_server import RedisServer
from support.replies import error_of
from support.server_thread import serving

from convlens import errors
from convlens.v1 import collection_pb2 as pb
from convlens.v1 import collection_pb2_grpc


def test_who_adds_images_is_sent_to_another_server_when_this_one_ends(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    sending, ended = threading.Event(), threading.Event()

    def parts() -> Iterator[pb.AddImagesRequest]:
        yield pb.AddImagesRequest(collection="open")
        yield pb.AddImagesRequest(image=pb.NamedFile(name="a.png", encoded=picture(1)))
        sending.set()
        ended.wait(20)

    settings = {"redis": shared_redis.url, "artifacts": str(tmp_path)}
    with ExitStack() as channels:
        with serving(**settings, grace=15) as app:
            place = Place(channels.enter_context(grpc.insecure_channel(app.address)), tmp_path)
            place.create("open")
            answers = place.collections.AddImages(parts())
            assert next(answers).image.name == "a.png"
            began = time.monotonic()
        assert time.monotonic() - began < 10
        with pytest.raises(grpc.RpcError) as raised:
            next(answers)
        ended.set()
    assert isinstance(errors.from_rpc_error(raised.value), errors.Unavailable)


def test_the_server_starts_without_the_libraries_for_searches() -> None:
    heavy = "{'sklearn', 'usearch', 'torch'}"
    code = f"import sys, convlens_server.app; print(*(sys.modules.keys() & {heavy}))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == ""


def test_libraries_that_are_missing_are_named(place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("usearch", "sklearn.manifold"):
        monkeypatch.setitem(sys.modules, name, None)
    request = pb.MapCollectionRequest(
        id=PHOTOS, features=features(), projection=pb.PROJECTION_TSNE, perplexity=5
    )
    error = error_of(place.collections.MapCollection, request)
    assert error.reason == "NOT_INSTALLED"
    assert "convlens[maps]" in error.message
    near = pb.FindNearestRequest(
        id=PHOTOS, features=features("max"), name="1.png", approximate=True, metric=pb.METRIC_L2
    )
    error = error_of(place.collections.FindNearest, near)
    assert error.reason == "NOT_INSTALLED"
    assert "convlens[search]" in error.message


def test_without_redis_there_are_no_collections(channel: grpc.Channel) -> None:
    stub = collection_pb2_grpc.CollectionServiceStub(channel)
    error = error_of(stub.ListCollections, pb.ListCollectionsRequest())
    assert isinstance(error, errors.FailedPrecondition)
    assert error.reason == "NO_LONG_LANE"
