"""Each technique as a job of a real worker: cancelled it stops, killed half-way it ends in the same bytes."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from google.protobuf.message import Message
from support.collections import picture
from support.faults import checkpointed, submit
from support.job_plane import opened, running, until
from support.long_cases import CASES, PICTURES, Case
from support.redis_server import RedisServer
from support.tiny_model import NAME
from support.worker_process import WorkerProcess

from convlens import wire
from convlens.v1 import image_pb2, job_pb2, model_pb2
from convlens_workers.collections import CollectionFiles
from convlens_workers.jobs import JobRecord, JobStore
from convlens_workers.settings import WorkerSettings

pytestmark = pytest.mark.slow
SUCCEEDED, CANCELLED = job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_CANCELLED
LONGER = {"steps": 60, "first_steps": 60, "photographs": 40, "queries": 20, "searches": 3, "images": 12}
"""How many times as much work as in a unit test: seconds."""
SMALLEST = 16
"""Pixels a side: the network takes no less."""
OTHER_STEPS = {"style_transfer": 20, "transfer_matrix": 600}
"""Where steps are longer, or shorter, than elsewhere."""


@pytest.fixture(scope="module")
def settings(
    shared_redis: RedisServer, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> WorkerSettings:
    folder = tmp_path_factory.mktemp("every")
    shutil.copytree(tiny_models, folder / "models")
    made = WorkerSettings(
        redis=shared_redis.url,
        artifacts=str(folder / "artifacts"),
        models=folder / "models",
        device="cpu",
        queue="every",
        lease=1.0,
        checkpoint_interval=0.05,
    )
    files = CollectionFiles(made.artifacts_url())
    for number in range(len(PICTURES)):
        files.put_image("c", picture(number))
    files.put_shard("c", PICTURES)
    return made


@pytest.fixture(scope="module")
def worker(settings: WorkerSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(settings, tmp_path_factory.mktemp("logs"))
    yield worker.ready()
    worker.end()


@pytest.fixture
async def store(settings: WorkerSettings) -> AsyncIterator[JobStore]:
    async with opened(settings) as store:
        yield store


def request_of(case: Case) -> job_pb2.SubmitJobRequest:
    """The case as a client would submit it, with a new id, and with enough to do to be disturbed."""
    request = job_pb2.SubmitJobRequest(
        request_id=str(uuid.uuid4()), model=model_pb2.ModelRef(name=NAME, version=1)
    )
    params = getattr(request, case.technique)
    params.CopyFrom(case.params)
    other = OTHER_STEPS.get(case.technique)
    longer = LONGER | ({"steps": other, "first_steps": other} if other else {})
    for name, times in longer.items():
        field = params.DESCRIPTOR.fields_by_name.get(name)
        if field is not None and not field.is_repeated and getattr(params, name):
            setattr(params, name, getattr(params, name) * times)
    if case.technique == "attribution_maps":
        params.attributions[0].rise.masks = 10_000
    rng = torch.Generator().manual_seed(1)
    for path, size in case.images.items():
        sides = [max(side, SMALLEST) for side in size]
        tensor = wire.to_tensor(torch.rand(3, *sides, generator=rng).numpy())
        place(params, path).CopyFrom(image_pb2.Image(tensor=tensor))
    if case.technique == "measure_receptive_field":
        params.discrepancy.stride = 1
        params.images[:] = [*params.images] * LONGER["images"]
    return request


def place(message: Message, path: str) -> Any:
    """The message at a path such as "styles[0].mask", made if need be."""
    value: Any = message
    for name, position in re.findall(r"(\w+)(?:\[(\d+)\])?", path):
        value = getattr(value, name)
        if position:
            while len(value) <= int(position):
                value.add()
            value = value[int(position)]
    return value


def made(record: JobRecord) -> bytes:
    assert record.metadata.state == SUCCEEDED, record
    assert record.result is not None
    return record.result.SerializeToString(deterministic=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.technique)
async def test_killed_or_cancelled_half_way(case: Case, store: JobStore, worker: WorkerProcess) -> None:
    undisturbed = made(await store.wait(await submit(store, request_of(case)), 200))
    name = await submit(store, request_of(case))
    await until(store, name, checkpointed, 60)
    worker.device_process().kill()
    killed = await store.wait(name, 200)
    assert killed.metadata.attempt == 2
    assert made(killed) == undisturbed
    name = await submit(store, request_of(case))
    await until(store, name, running, 60)
    await store.cancel(name)
    assert (await store.wait(name, 20)).metadata.state == CANCELLED
