"""What tests of faults ask of jobs and workers."""

from __future__ import annotations

from support.job_plane import dream, running
from support.worker_process import WorkerProcess

from convlens.v1 import job_pb2
from convlens_workers.jobs import JobRecord, JobStore


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
