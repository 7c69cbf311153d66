"""convlens.v1.JobService."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import numpy as np
from google.longrunning.operations_pb2 import Operation

from convlens.errors import InvalidArgument, ResourceExhausted
from convlens.serialised import chunk_messages, header_message
from convlens.v1 import job_pb2, job_pb2_grpc, model_pb2
from convlens_models.manifest import Manifest
from convlens_server.collections.gateway import CollectionGateway
from convlens_server.identity import owner
from convlens_server.jobs.admission import Limits
from convlens_server.jobs.earlier_job import RESUMABLE, EarlierJob, describe, reckoned_of
from convlens_server.jobs.job_gateway import JobGateway
from convlens_server.jobs.preparation import preparation
from convlens_server.quick.inference_service import InferenceService, Streamed, require
from convlens_server.request.request_context import hold, timed
from convlens_server.request.validation import validate
from convlens_workers.collections import owned
from convlens_workers.jobs import to_operation
from convlens_workers.jobs.models import digests, name_defaults
from convlens_workers.jobs.pictures import decode_images
from convlens_workers.jobs.record import check_tags
from convlens_workers.jobs.techniques import SPECIFICATIONS
from convlens_workers.jobs.techniques.base import Resources, Submission

ARTIFACT_BYTES: Final = 8 << 20
"""What a reader of an artifact holds, however large it is: what was read ahead, and a piece, twice."""


class JobServicer(job_pb2_grpc.JobServiceServicer):
    """Hands long work to the job plane, and its events and artifacts back."""

    def __init__(
        self, quick: InferenceService, long: JobGateway, collections: CollectionGateway, limits: Limits
    ) -> None:
        self._quick = quick
        self._long = long
        self._collections = collections
        self._limits = limits

    async def SubmitJob(self, request: job_pb2.SubmitJobRequest, context: Any) -> Operation:  # noqa: N802
        """Queue a job."""
        store, run = self._long.store, self._quick.executor.run
        sent = request.SerializeToString(deterministic=True)
        check_tags(request.tags)
        earlier = await EarlierJob.of(request, store)
        whole = request if earlier is None else earlier.overlaid(request)
        resolved, job = await run(self._resolve, whole)
        specification, digest = SPECIFICATIONS[job.technique], job.manifest.digest
        resumed = earlier if earlier and earlier.resumed else None
        if resumed:
            resumed.check_resumed(resolved, job.manifest)
        elif specification.prepare:
            await run(specification.prepare, job, await preparation(self._collections, job))
        reckoned = await run(resumed.reckoned if resumed else reckoned_of, job)
        _own_collection(job.params)
        bound = await run(digests, resolved, job.resources.repository)
        bound[f"{job.manifest.name}/{job.manifest.version}"] = digest
        facts: Any = {"payload": sent, "model_digest": digest, "reckoned": reckoned, "models": bound}
        record = await store.submit(
            resolved,
            resumable=specification.grows is not None,
            resumed=resumed.record if resumed else None,
            **facts,
        )
        with suppress(ResourceExhausted):  # The job itself does all that its helpers do not.
            for helper in specification.helpers(resolved, record.name):
                await store.submit(helper, **facts)
        return to_operation(record)

    async def WatchJob(  # noqa: N802
        self, request: job_pb2.WatchJobRequest, context: Any
    ) -> AsyncIterator[job_pb2.WatchJobResponse]:
        """The events of a job."""
        request = validate(request)
        events = self._long.store.watch(request.name, request.after_event_id)
        with self._long.room():
            async for event_id, metadata, error in self._long.until_stopping(events):
                yield job_pb2.WatchJobResponse(event_id=event_id, metadata=metadata, error=error)

    async def ReadArtifact(  # noqa: N802
        self, request: job_pb2.ReadArtifactRequest, context: Any
    ) -> Streamed:
        """The header of an artifact, and its bytes from `read_offset` on."""
        request = validate(request)
        with self._long.room():
            header, pieces = await self._long.store.read(request.name, request.artifact, request.read_offset)
            hold(min(3 * header.total_bytes, ARTIFACT_BYTES))
            reply, offset = job_pb2.ReadArtifactResponse, request.read_offset
            yield header_message(reply, header)
            async for piece in pieces:
                data = np.frombuffer(piece, np.uint8)
                for message in timed("encode", chunk_messages(reply, data, offset)):
                    yield message
                offset += len(piece)

    async def GetJobRequest(  # noqa: N802
        self, request: job_pb2.GetJobRequestRequest, context: Any
    ) -> job_pb2.GetJobRequestResponse:
        """What a job was asked for."""
        store = self._long.store
        return await describe(await store.get(validate(request).name), store)

    async def GetJobStats(  # noqa: N802
        self, request: job_pb2.GetJobStatsRequest, context: Any
    ) -> job_pb2.GetJobStatsResponse:
        """How the queues stand."""
        return job_pb2.GetJobStatsResponse(queues=await self._long.store.stats())

    def _resolve(self, request: job_pb2.SubmitJobRequest) -> tuple[job_pb2.SubmitJobRequest, Submission]:
        """The request with its defaults and the model's version, and the job in it; blocks."""
        manifest = self._quick.stored(request.model).manifest
        require(manifest)
        resolved = validate(request, manifest)
        _check_request_id(resolved.request_id)
        technique = resolved.WhichOneof("technique") or ""
        if resolved.HasField("save_every") and SPECIFICATIONS[technique].grows is None:
            raise InvalidArgument.of(
                "save_every",
                resolved.save_every,
                f"left out with {technique}; {', '.join(RESUMABLE)} have it",
            )
        name_defaults(resolved, self._quick.models.repository)
        resolved.model.CopyFrom(model_pb2.ModelRef(name=manifest.name, version=manifest.version))
        job = self._submission(resolved, manifest)
        specification = SPECIFICATIONS[job.technique]
        specification.complete(job)
        specification.check(job)
        self._limits.admit(job)
        return resolved, job

    def _submission(self, request: job_pb2.SubmitJobRequest, manifest: Manifest) -> Submission:
        """The job of a valid request: its technique's message within the request, and its pictures' sizes."""
        technique, settings = request.WhichOneof("technique") or "", self._collections.settings
        params = getattr(request, technique)
        manifest = SPECIFICATIONS[technique].seen(params, manifest)
        images = decode_images(params, manifest, technique)
        sizes = {path: (pixels.shape[1], pixels.shape[2]) for path, pixels in images}
        resources = Resources(self._quick.models.repository, settings.victims, settings.training_folders)
        return Submission(technique, params, manifest, sizes, resources)


def _own_collection(params: Any) -> None:
    """Name the collection as the stores do: a worker does not know whose job it is."""
    if "collection" in params.DESCRIPTOR.fields_by_name and params.collection:
        params.collection = owned(owner(), params.collection)


def _check_request_id(request_id: str) -> None:
    try:
        if request_id:
            uuid.UUID(request_id)
    except ValueError:
        raise InvalidArgument.of("request_id", request_id, "empty or a UUID") from None
