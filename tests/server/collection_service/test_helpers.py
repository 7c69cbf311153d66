"""Extractions that several jobs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2
from support.collection_service import LAYER, Place
from support.collections import picture
from support.redis_server import RedisServer
from support.server_thread import serving

from convlens import errors
from convlens.v1 import job_pb2
from convlens_server.jobs import preparation
from convlens_workers.jobs import JobRecord, JobStore


def test_a_cancel_reaches_all_helpers_though_there_was_no_room_for_one(
    shared_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = JobStore.submit

    async def no_room_for_the_first(
        self: JobStore, request: job_pb2.SubmitJobRequest, **how: Any
    ) -> JobRecord:
        if request.request_id.endswith("/1"):
            raise errors.ResourceExhausted("the queue is full")
        return await submit(self, request, **how)

    monkeypatch.setattr(JobStore, "submit", no_room_for_the_first)
    monkeypatch.setattr(preparation, "SHARD", 1)
    settings = {"redis": shared_redis.url, "artifacts": str(tmp_path), "queue": "without-workers"}
    with serving(**settings) as app, grpc.insecure_channel(app.address) as channel:
        place = Place(channel, tmp_path)
        place.create("shared")
        place.add("shared", {f"{n}.png": picture(n) for n in range(4)})
        params = {"collection": "shared", "layers": [LAYER], "parts": 4}
        job = place.jobs.SubmitJob(job_pb2.SubmitJobRequest(extract_features=params))
        place.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=job.name))
        waiting = operations_pb2.ListOperationsRequest(name="operations", filter="state=QUEUED")
        assert not place.operations.ListOperations(waiting).operations
