"""What clients see when front-ends die or go, and when readers are slow; with real ones."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.front_end import FrontEnd
from support.job_plane import dream, sha256, undisturbed
from support.redis_server import RedisServer
from support.worker_by_hand import WorkerByHand
from support.worker_process import WorkerProcess

from convlens.v1 import job_pb2, job_pb2_grpc
from convlens_client import AsyncClient, Client, requests
from convlens_client.channel import OPTIONS
from convlens_workers.jobs import JobSettings, JobStore
from convlens_workers.settings import WorkerSettings

SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED
BIG = np.random.default_rng(0).standard_normal((6, 1 << 20)).astype(np.float32)
"""24 MB: more than lies between a server and a reader that does not read."""
DIGEST = hashlib.sha256(BIG.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def plane(
    shared_redis: RedisServer, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    return {
        "redis": shared_redis.url,
        "artifacts": str(tmp_path_factory.mktemp("front")),
        "models": tiny_models,
        "queue": "front",
    }


@pytest.fixture(scope="module")
def lasting(plane: dict[str, object]) -> Iterator[FrontEnd]:
    """One that the tests leave alive."""
    with FrontEnd(**plane) as front_end:
        yield front_end


@pytest.fixture(scope="module")
def big(plane: dict[str, object], lasting: FrontEnd) -> str:
    """Name of a job with a big artifact."""
    settings = JobSettings(redis=plane["redis"], artifacts=plane["artifacts"], queue=plane["queue"])
    with Client(lasting.address) as client, WorkerByHand(settings) as worker:
        name = client.run(requests.submit(dream(1).deepdream, model="tiny")).name
        worker.succeed(worker.take(), image=BIG)
    return name


def test_a_killed_front_end_is_left_for_another_at_the_byte_where_it_broke(
    plane: dict[str, object], lasting: FrontEnd, big: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has two addresses, as behind one name; the second server is asked for the rest only."""
    # Not in turn: the one that dies is asked first.
    in_order = [option for option in OPTIONS if option[0] != "grpc.service_config"]
    monkeypatch.setattr("convlens_client.channel.OPTIONS", in_order)
    with FrontEnd(**plane) as dying:
        port, other = (end.address.rpartition(":")[2] for end in (dying, lasting))
        with Client(f"ipv4:127.0.0.1:{port},127.0.0.1:{other}") as client:
            call = requests.read_artifact(big, "image")
            offsets, ask = [], call.request
            call.request = lambda: offsets.append((request := ask()).read_offset) or request  # type: ignore
            for parts, _ in enumerate(client.follow(call)):
                if parts == 5:
                    dying.process.kill()
                    dying.process.wait(10)
            reply = call.result()
    assert hashlib.sha256(reply.tobytes()).hexdigest() == DIGEST
    assert len(offsets) == 2
    assert 5 * (512 << 10) <= offsets[1] < BIG.nbytes


def test_sigterm_says_not_serving_and_finishes_what_flies(plane: dict[str, object], big: str) -> None:
    with FrontEnd(**plane) as leaving, grpc.insecure_channel(leaving.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        request = job_pb2.ReadArtifactRequest(name=big, artifact="image")
        stream = job_pb2_grpc.JobServiceStub(channel).ReadArtifact(request)
        next(stream)
        leaving.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        rest = b"".join(part.tensor.chunk.data for part in stream)
        assert hashlib.sha256(rest).hexdigest() == DIGEST
        assert leaving.process.wait(20) == 0


async def test_a_watcher_of_a_front_end_that_goes_is_sent_to_another(
    plane: dict[str, object], lasting: FrontEnd
) -> None:
    """And sees every event once."""
    settings = JobSettings(redis=plane["redis"], artifacts=plane["artifacts"], queue=plane["queue"])
    with FrontEnd(**plane) as leaving, WorkerByHand(settings) as worker:
        port, other = (end.address.rpartition(":")[2] for end in (leaving, lasting))
        async with AsyncClient(f"ipv4:127.0.0.1:{port},127.0.0.1:{other}") as client:
            operation = await client.submit(dream(1).deepdream, model="tiny")
            steps: list[int] = []

            async def follow() -> None:
                async for metadata in operation.watch():
                    steps.append(metadata.step)

            following = asyncio.create_task(follow())
            attempt = worker.take()
            for step in range(1, 21):
                worker.store.update(attempt, {"step": step, "total_steps": 20})
                await asyncio.sleep(0.02)
                if step == 10:
                    leaving.process.send_signal(signal.SIGTERM)
            worker.succeed(attempt, image=BIG[:1, :10])
            await asyncio.wait_for(following, 20)
    assert steps == [0, 0, *range(1, 21), 20]


def test_the_same_request_id_100_times_at_once_over_two_front_ends(
    plane: dict[str, object], lasting: FrontEnd
) -> None:
    request_id = "11111111-2222-3333-4444-555555555555"
    with FrontEnd(**plane) as second, Client(lasting.address) as one, Client(second.address) as two:

        def submit(number: int) -> str:
            client = (one, two)[number % 2]
            return client.submit(dream(1).deepdream, model="tiny", request_id=request_id).name

        before = {operation.name for operation in one.operations()}
        with ThreadPoolExecutor(32) as pool:
            names = set(pool.map(submit, range(100)))
        assert {operation.name for operation in two.operations()} - before == names
        assert len(names) == 1
        one.operation(names.pop()).cancel()


def test_slow_readers_cost_little_and_hold_up_nobody(lasting: FrontEnd, big: str) -> None:
    request = job_pb2.ReadArtifactRequest(name=big, artifact="image")
    channels = [
        grpc.insecure_channel(lasting.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(20)
    ]
    try:
        with Client(lasting.address) as client:
            client.operation(big).artifact("image")
            before = lasting.memory()
            streams = [job_pb2_grpc.JobServiceStub(channel).ReadArtifact(request) for channel in channels]
            for stream in streams:
                next(stream)
            time.sleep(1.0)
            began = time.monotonic()
            found = client.operation(big).artifact("image")
            assert time.monotonic() - began < 5
            assert hashlib.sha256(found.tobytes()).hexdigest() == DIGEST
            assert lasting.memory() - before < 20 * BIG.nbytes / 2  # 8 MB a reader, however big the artifact.
            rest = b"".join(part.tensor.chunk.data for part in streams[7])
            assert hashlib.sha256(rest).hexdigest() == DIGEST
    finally:
        for channel in channels:
            channel.close()


async def test_a_job_goes_on_when_its_client_leaves(
    shared: JobStore, worker: WorkerProcess, shared_settings: WorkerSettings, tiny_models: Path
) -> None:
    request = dream(300)
    settings = {name: getattr(shared_settings, name) for name in ("redis", "artifacts", "models", "queue")}
    with FrontEnd(**settings) as front_end, Client(front_end.address) as client:
        operation = client.run(requests.submit(request.deepdream, model="tiny"))
        for metadata in client.follow(requests.watch(operation.name)):
            if metadata.step:
                break
    record = await shared.wait(operation.name, 30)
    assert record.metadata.state == SUCCEEDED
    assert sha256(record) == undisturbed(tiny_models, request)
