"""Jobs for tests of the job plane: their states, a request, a submission, what they might end in."""

from __future__ import annotations

import numpy as np

from convlens.v1 import job_pb2, model_pb2
from convlens_workers.jobs import JobStore

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = range(1, 6)
IMAGE = np.frombuffer(b"abcd", np.uint8)


def request(request_id: str = "", seed: int = 0) -> job_pb2.SubmitJobRequest:
    return job_pb2.SubmitJobRequest(
        request_id=request_id,
        model=model_pb2.ModelRef(name="tiny", version=1),
        seed=seed,
        deepdream=job_pb2.DeepDream(steps=3),
    )


async def submit(store: JobStore, request_id: str = "", seed: int = 0) -> str:
    return (await store.submit(request(request_id, seed), model_digest="abc")).name
