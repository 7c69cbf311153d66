"""convlens.v1.JobService."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import numpy as np
from google.longrunning.operations_pb2 import Operation

from convlens.errors import InvalidArgument, ResourceExhausted
from convlens.serialised import chunk_messages, header_message
from convlens.v1 import job_pb2, job_pb2_grpc, model_pb2, style_pb2
from convlens_server.collections import extraction, selection
from convlens_server.collections.gateway import CollectionGateway
from convlens_server.identity import owner
from convlens_server.jobs import job_checks, training, transfer
from convlens_server.jobs.admission import Limits
from convlens_server.jobs.job_gateway import JobGateway
from convlens_server.quick import images
from convlens_server.quick.inference_service import InferenceService, Streamed, require
from convlens_server.serving.request_context import timed
from convlens_server.serving.validation import validate
from convlens_workers.collections import owned
from convlens_workers.jobs import to_operation
from convlens_workers.jobs.victims import address_of


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
        store = self._long.store
        resolved, digest, cost = await self._quick.executor.run(self._resolve, request)
        sent = request.SerializeToString(deterministic=True)
        if resolved.HasField("extract_features"):
            await self._plan(resolved)
        await self._select(resolved)
        if resolved.HasField("train_style"):
            await self._gather(resolved.train_style)
        if resolved.HasField("substitute"):
            address_of(resolved.substitute.victim, self._collections.settings.victims)
        _own_collection(resolved)
        record = await store.submit(resolved, model_digest=digest, payload=sent, cost=cost)
        with suppress(ResourceExhausted):  # The job itself does all that its helpers do not.
            for helper in extraction.helpers(resolved, record.name):
                await store.submit(helper, model_digest=digest, payload=sent)
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
            reply, offset = job_pb2.ReadArtifactResponse, request.read_offset
            yield header_message(reply, header)
            async for piece in pieces:
                data = np.frombuffer(piece, np.uint8)
                for message in timed("encode", chunk_messages(reply, data, offset)):
                    yield message
                offset += len(piece)

    async def GetJobStats(  # noqa: N802
        self, request: job_pb2.GetJobStatsRequest, context: Any
    ) -> job_pb2.GetJobStatsResponse:
        """How the queues stand."""
        return job_pb2.GetJobStatsResponse(queues=await self._long.store.stats())

    async def _plan(self, request: job_pb2.SubmitJobRequest) -> None:
        """Fill in the shards of the images that lack features, and remember which features there will be."""
        params, index, run = request.extract_features, self._collections.index, self._quick.executor.run
        order = await index.order(params.collection)
        manifest = (await run(self._quick.stored, request.model)).manifest
        sets = extraction.describe(params, manifest)
        await run(extraction.plan, self._collections.shards, params, list(sets), order)
        await index.describe(params.collection, {which.key: found for which, found in sets.items()})

    async def _select(self, request: job_pb2.SubmitJobRequest) -> None:
        """Fill in the images that excite units most, where the technique wants those of a collection."""
        technique, run = request.WhichOneof("technique") or "", self._quick.executor.run
        params = getattr(request, technique)
        if technique not in selection.SELECTIONS or not params.collection:
            return
        order = await self._collections.index.order(params.collection)
        manifest = (await run(self._quick.stored, request.model)).manifest
        await run(selection.SELECTIONS[technique], self._collections.shards, params, manifest, order)

    async def _gather(self, params: style_pb2.TrainStyle) -> None:
        """Look at the name and the folder, or fill in the collection's pictures."""
        run, folders = self._quick.executor.run, self._collections.settings.training_folders
        await run(training.check, params, self._quick.models.repository, folders)
        del params.shards[:]
        if params.WhichOneof("source") == "collection":
            order = await self._collections.index.order(params.collection)
            await run(training.gather, self._collections.files, params, order)

    def _resolve(self, request: job_pb2.SubmitJobRequest) -> tuple[job_pb2.SubmitJobRequest, str, float]:
        """The request with its defaults and the model's version, the model's digest, the cost; blocks."""
        manifest = self._quick.stored(request.model).manifest
        require(manifest)
        resolved = validate(request, manifest)
        _check_request_id(resolved.request_id)
        technique = resolved.WhichOneof("technique") or ""
        params = getattr(resolved, technique)
        if technique == "transfer_matrix":
            transfer.resolve(params, manifest, self._quick.models.repository)
        sizes = images.sizes(params, manifest, technique)
        job_checks.check(technique, params, manifest, sizes)
        pixels = sum(height * width for height, width in sizes.values())
        cost = self._limits.admit(technique, params, pixels, manifest)
        resolved.model.CopyFrom(model_pb2.ModelRef(name=manifest.name, version=manifest.version))
        return resolved, manifest.digest, cost


def _own_collection(request: job_pb2.SubmitJobRequest) -> None:
    """Name the collection as the stores do: a worker does not know whose job it is."""
    params = getattr(request, request.WhichOneof("technique") or "")
    if "collection" in params.DESCRIPTOR.fields_by_name and params.collection:
        params.collection = owned(owner(), params.collection)


def _check_request_id(request_id: str) -> None:
    try:
        if request_id:
            uuid.UUID(request_id)
    except ValueError:
        raise InvalidArgument.of("request_id", request_id, "empty or a UUID") from None
