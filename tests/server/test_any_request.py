"""Any request whatever: no server that crashes, no INTERNAL, no memory that grows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import grpc
import pytest
from grpc import StatusCode
from grpc_reflection.v1alpha import reflection, reflection_pb2  # noqa: F401
from hypothesis import HealthCheck, given, seed, settings
from support.any_request import (
    COLLECTION,
    FILES,
    LAYERS,
    OPERATION,
    REQUEST_ID,
    Method,
    call,
    methods,
    pictures,
    requests,
)
from support.collection_service import Place
from support.collections import MAX, MEAN, picture
from support.front_end import FrontEnd
from support.job_plane import dream
from support.redis_server import RedisServer
from support.style import style_state
from support.tiny_model import add_tiny_model
from support.worker_process import WorkerProcess

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import inspection_pb2, inspection_pb2_grpc, job_pb2
from convlens_models.importing.style_import import add_style
from convlens_server.services import SERVICES
from convlens_workers.settings import WorkerSettings

FLATTEN: Final = inspection_pb2.POOLING_FLATTEN
METHODS: Final = sorted(
    methods((*SERVICES, reflection.SERVICE_NAME)), key=lambda method: "/Delete" in method.path
)
"""Those that take away what others are asked for at the end."""
FEW: Final = 40
MANY: Final = math.ceil(100_000 / sum(bool(method.kind.DESCRIPTOR.fields) for method in METHODS))
"""Of each method that takes anything: 100,000 together."""
CHUNK: Final = 500
"""Examples of one run of hypothesis, which remembers all of them."""
TIMEOUT: Final = 0.25
GROWTH: Final = 120 << 20
FINE: Final = frozenset(StatusCode) - {
    StatusCode.UNKNOWN,
    StatusCode.INTERNAL,
    StatusCode.UNIMPLEMENTED,
    StatusCode.UNAVAILABLE,
    StatusCode.DATA_LOSS,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = add_tiny_model(tmp_path_factory.mktemp("models"))
    add_style(root, style_state(width=2), "painter")
    return root


@pytest.fixture(scope="module")
def front_end(
    shared_redis: RedisServer, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FrontEnd]:
    shared_redis.flush()
    artifacts = tmp_path_factory.mktemp("artifacts")
    places = {"redis": shared_redis.url, "artifacts": artifacts, "models": models}
    worker = WorkerProcess(WorkerSettings(**{**places, "artifacts": str(artifacts)}, device="cpu"), artifacts)
    with FrontEnd(**places, session_megabytes=64, log_level="ERROR") as front_end:
        try:
            worker.ready()
            fill(front_end.address)
        finally:
            worker.end()  # What is submitted from now on waits for ever.
        yield front_end


def fill(address: str) -> None:
    """Make what requests name: a collection with features, and a job that has ended."""
    with grpc.insecure_channel(address) as channel:
        place = Place(channel)
        place.create("other")
        place.create(COLLECTION)
        place.add(COLLECTION, {f"{number}.png": picture(number) for number in range(12)})
        for layers, poolings in ((LAYERS, [MEAN, MAX]), (["classifier"], [FLATTEN])):
            wanted = {"collection": COLLECTION, "layers": layers, "poolings": poolings}
            place.succeeded(job_pb2.SubmitJobRequest(extract_features=wanted))
        assert place.succeeded(dream(1, request_id=REQUEST_ID))[0] == OPERATION


@pytest.fixture(scope="module")
def channel(front_end: FrontEnd) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(front_end.address) as channel:
        yield channel


def ask(channel: grpc.Channel, method: Method, count: int, number: int) -> None:
    """Calls a method with `count` requests, which `number` decides."""

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(requests(method))
    def answers(given_requests: list) -> None:
        code = call(channel, method, given_requests, TIMEOUT)
        assert code in FINE, (method.path, code)

    answers()


def is_up(channel: grpc.Channel) -> bool:
    request = inspection_pb2.ClassifyRequest(images=[{"encoded": FILES[0]}])
    return len(inspection_pb2_grpc.InspectionServiceStub(channel).Classify(request).classifications) == 1


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path)
def test_any_request_is_answered(front_end: FrontEnd, channel: grpc.Channel, method: Method) -> None:
    before = front_end.memory()
    ask(channel, method, FEW, 1)
    assert is_up(channel)
    assert front_end.memory() < before + 2 * GROWTH  # Of which caches are a part.


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path)
def test_a_great_many_requests_are_answered(
    front_end: FrontEnd, channel: grpc.Channel, method: Method
) -> None:
    ask(channel, method, CHUNK, 100)  # What is kept for a method's next call is kept then.
    before = front_end.memory()
    for number in range(1, math.ceil(MANY / CHUNK)):
        ask(channel, method, CHUNK, 100 + number)
    assert is_up(channel)
    assert front_end.memory() < before + GROWTH


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_pictures_are_read_or_refused(count: int) -> None:
    @seed(count)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(pictures())
    def is_read_or_refused(data: bytes) -> None:
        with suppress(InvalidArgument):
            assert wire.decode_image(data, max_pixels=1 << 20).size <= 3 << 20

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        is_read_or_refused()
