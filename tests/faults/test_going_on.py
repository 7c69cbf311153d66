"""Jobs that another job goes on from, with a real worker: cancelled, killed, finished, damaged."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.faults import checkpointed
from support.job_plane import dream, running, sha256, undisturbed, until
from support.jobs import CANCELLED, FAILED, SUCCEEDED
from support.worker_process import WorkerProcess

from convlens.errors import from_status
from convlens.v1 import image_pb2, job_pb2
from convlens_workers.jobs import JobRecord, JobStore
from convlens_workers.settings import WorkerSettings


@pytest.fixture(scope="module")
def shared_settings(shared_settings: WorkerSettings) -> WorkerSettings:
    """The first use of `torch.optim` in a process takes seconds, which is no hang."""
    return shared_settings.model_copy(update={"hang_timeout": 60.0})


def texture(steps: int) -> job_pb2.SubmitJobRequest:
    request = dream(1)
    sample = image_pb2.Image()
    sample.CopyFrom(request.deepdream.image)
    params = {"steps": steps, "scales": 1, "layers": ["features.relu2"], "optimiser": job_pb2.OPTIMISER_ADAM}
    request.texture.CopyFrom(job_pb2.Texture(sample=sample, learning_rate=0.02, **params))
    return request


async def submit(store: JobStore, request: job_pb2.SubmitJobRequest, resumed: JobRecord | None = None) -> str:
    """As the server does."""
    given = job_pb2.SubmitJobRequest()
    given.CopyFrom(request)
    given.resume = resumed.name if resumed else ""
    return (await store.submit(given, model_digest="abc", resumable=True, resumed=resumed)).name


async def done(
    store: JobStore, request: job_pb2.SubmitJobRequest, resumed: JobRecord | None = None
) -> JobRecord:
    return await store.wait(await submit(store, request, resumed), 60)


@pytest.mark.parametrize("request_", [dream(200), texture(150)], ids=["deepdream", "texture"])
async def test_a_cancelled_job_is_gone_on_from_to_the_same_bytes(
    request_: job_pb2.SubmitJobRequest, shared: JobStore, worker: WorkerProcess
) -> None:
    name = await submit(shared, request_)
    await until(shared, name, running)
    began = time.monotonic()
    await shared.cancel(name)
    assert (await shared.wait(name, 5)).metadata.state == CANCELLED
    assert time.monotonic() - began < 2
    record = await until(shared, name, lambda record: bool(record.metadata.artifacts))
    assert (record.metadata.state, len(record.checkpoints)) == (CANCELLED, 1)
    header, pieces = await shared.read(name, "so_far")
    data = b"".join([piece async for piece in pieces])
    assert hashlib.sha256(data).hexdigest() == header.sha256
    picture = np.frombuffer(data, np.float32)
    assert picture.std() > 0.01
    assert 0 <= picture.min() < picture.max() <= 1
    resumed = await done(shared, request_, record)
    assert (resumed.metadata.state, resumed.metadata.attempt) == (SUCCEEDED, 1)
    assert sha256(resumed) == sha256(await done(shared, request_)) != header.sha256


async def test_after_kill_9_the_newest_checkpoint_is_gone_on_from(
    shared: JobStore, worker: WorkerProcess, tiny_models: Path
) -> None:
    """It hangs when the job is cancelled, and is killed: there is no picture, but a checkpoint."""
    request = dream(300)
    name = await submit(shared, request)
    await until(shared, name, checkpointed)
    process = worker.device_process()
    process.suspend()
    await shared.cancel(name)
    record = await shared.wait(name, 5)
    process.kill()
    assert (record.metadata.state, len(record.checkpoints), len(record.metadata.artifacts)) == (
        CANCELLED,
        1,
        0,
    )
    resumed = await done(shared, request, record)
    assert resumed.metadata.state == SUCCEEDED
    assert sha256(resumed) == undisturbed(tiny_models, request)


async def test_a_finished_job_takes_more_steps_and_shows_its_way(
    shared: JobStore, worker: WorkerProcess, tiny_models: Path
) -> None:
    first = await done(shared, dream(4))
    more = dream(9)
    more.save_every = 3
    record = await done(shared, more, first)
    assert sha256(record) == undisturbed(tiny_models, dream(9))
    assert record.metadata.step == 9
    assert [header.name for header in record.metadata.artifacts] == ["step.000006", "step.000009"]
    assert record.metadata.artifacts[1].sha256 == sha256(record)
    assert record.metadata.artifacts[0].sha256 == undisturbed(tiny_models, dream(6))


async def test_so_many_pictures_and_no_more(shared: JobStore, worker: WorkerProcess) -> None:
    request = dream(130)
    request.save_every = 2
    failed = await done(shared, request)
    assert failed.error is not None
    assert (failed.metadata.state, from_status(failed.error).field) == (FAILED, "save_every")
    assert "at least 3" in failed.error.message
    request.save_every = 3
    assert len((await done(shared, request)).metadata.artifacts) == 43


async def test_a_checkpoint_that_does_not_fit_is_never_a_new_beginning(
    shared: JobStore, worker: WorkerProcess, shared_settings: WorkerSettings
) -> None:
    record = await done(shared, dream(4))
    other = await done(shared, dream(6, seed=1), record)  # The server would have refused it.
    assert other.error is not None
    error: Any = from_status(other.error)
    assert (other.metadata.state, error.reason, other.metadata.step) == (FAILED, "CHECKPOINT_UNFIT", 0)
    (checkpoint,) = record.checkpoints
    path = Path(shared_settings.artifacts) / record.name / "checkpoints" / checkpoint
    path.write_bytes(path.read_bytes()[:-1])
    damaged = await done(shared, dream(6), record)
    assert damaged.error is not None
    assert from_status(damaged.error).reason == "CHECKPOINT_UNFIT"
