"""What tests of faults ask of jobs and workers."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import redis
from support.job_plane import dream, running
from support.worker_process import WorkerProcess

from convlens.v1 import job_pb2
from convlens_workers.jobs import ArtifactStore, JobRecord, JobSettings, JobStore
from convlens_workers.jobs.scripts import OPERATION, UNTIDY
from convlens_workers.jobs.tidying import named
from convlens_workers.jobs.worker_job_store import WorkerJobStore


def bad_disk(place: Path) -> dict[str, str]:
    """The variables by which processes find the artifact store's disk to be as the file at `place` says."""
    shim = str(Path(__file__).parent / "bad_disk")
    path = [shim, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path), "BAD_DISK": str(place)}


def tidied(settings: JobSettings) -> Counter[str]:
    """What Redis counts of all jobs, once the artifact store is as maintenance leaves it in time."""
    with redis.Redis.from_url(settings.redis) as client:
        store, artifacts = WorkerJobStore(client, settings, 10.0), ArtifactStore(settings.artifacts_url())
        while waiting := client.zrange(UNTIDY, 0, -1):
            client.zadd(UNTIDY, dict.fromkeys(waiting, 0))
            store.tidy_due(artifacts)
        counters = client.hgetall(f"convlens:counters:{settings.queue}")
    return Counter({name.decode(): int(value) for name, value in counters.items()})


def unnamed(url: str, artifacts: Path, name: str) -> set[str]:
    """Files of a job in the artifact store that its record does not name."""
    id_ = name.removeprefix("operations/")
    with redis.Redis.from_url(url) as client:
        record = JobRecord.from_fields(id_, client.hgetall(OPERATION + id_))
    place = artifacts / "operations" / id_
    files = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    return files - {f"{kind}/{digest}" for kind, digest in named(record)}


async def submit(store: JobStore, request: job_pb2.SubmitJobRequest) -> str:
    return (await store.submit(request, model_digest="abc")).name


def checkpointed(record: JobRecord) -> bool:
    return running(record) and bool(record.checkpoints)


def resumed(worker: WorkerProcess, name: str) -> list[object]:
    """Of each attempt of a job by this worker: whether it went on from a checkpoint."""
    id_ = name.removeprefix("operations/")
    return [line["resumed"] for line in worker.lines() if "resumed" in line and line["operation"] == id_]


async def still_works(store: JobStore) -> bool:
    record = await store.wait(await submit(store, dream(2)), 30)
    return record.metadata.state == job_pb2.JOB_STATE_SUCCEEDED
