"""convlens.v1.JobService."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

from google.longrunning.operations_pb2 import Operation

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2, job_pb2_grpc, model_pb2, tensor_pb2
from convlens_server import images
from convlens_server.long_lane import LongLane
from convlens_server.quick_lane import QuickLane
from convlens_server.validation import validate
from convlens_workers.jobs import to_operation


class JobServicer(job_pb2_grpc.JobServiceServicer):
    """Hands long work to the job plane, and its events and artifacts back."""

    def __init__(self, quick: QuickLane, long: LongLane) -> None:
        self._quick = quick
        self._long = long

    async def SubmitJob(self, request: job_pb2.SubmitJobRequest, context: Any) -> Operation:  # noqa: N802
        """Queue a job."""
        store = self._long.store
        resolved, digest = await self._quick.executor.run(self._resolve, request)
        sent = request.SerializeToString(deterministic=True)
        return to_operation(await store.submit(resolved, model_digest=digest, payload=sent))

    async def WatchJob(  # noqa: N802
        self, request: job_pb2.WatchJobRequest, context: Any
    ) -> AsyncIterator[job_pb2.WatchJobResponse]:
        """The events of a job."""
        request = validate(request)
        events = self._long.store.watch(request.name, request.after_event_id)
        async for event_id, metadata, error in self._long.until_stopping(events):
            yield job_pb2.WatchJobResponse(event_id=event_id, metadata=metadata, error=error)

    async def ReadArtifact(  # noqa: N802
        self, request: job_pb2.ReadArtifactRequest, context: Any
    ) -> AsyncIterator[job_pb2.ReadArtifactResponse]:
        """The header of an artifact, and its bytes from `read_offset` on."""
        request = validate(request)
        header, pieces = await self._long.store.read(request.name, request.artifact, request.read_offset)
        yield job_pb2.ReadArtifactResponse(tensor=tensor_pb2.TensorPart(header=header))
        offset = request.read_offset
        async for piece in pieces:
            for chunk in wire.chunks(piece, offset):
                yield job_pb2.ReadArtifactResponse(tensor=tensor_pb2.TensorPart(chunk=chunk))
            offset += len(piece)

    def _resolve(self, request: job_pb2.SubmitJobRequest) -> tuple[job_pb2.SubmitJobRequest, str]:
        """The request with its defaults and the model's version, and the model's digest; blocks."""
        manifest = self._quick.stored(request.model).manifest
        resolved = validate(request, manifest)
        _check_request_id(resolved.request_id)
        technique = resolved.WhichOneof("technique") or ""
        images.check(getattr(resolved, technique), manifest, technique)
        resolved.model.CopyFrom(model_pb2.ModelRef(name=manifest.name, version=manifest.version))
        return resolved, manifest.digest


def _check_request_id(request_id: str) -> None:
    try:
        if request_id:
            uuid.UUID(request_id)
    except ValueError:
        raise InvalidArgument.of("request_id", request_id, "empty or a UUID") from None
