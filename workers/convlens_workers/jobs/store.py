"""The server's side of the job plane: submit, find, follow, cancel and read jobs."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import logging
import math
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from itertools import count
from types import MappingProxyType
from typing import Any, Final

from google.rpc.status_pb2 import Status
from redis.asyncio import Redis

from convlens.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
)
from convlens.v1 import job_pb2, tensor_pb2
from convlens_workers.jobs import scripts
from convlens_workers.jobs.artifacts import ArtifactStore
from convlens_workers.jobs.change_notifier import ChangeNotifier
from convlens_workers.jobs.connection import connect
from convlens_workers.jobs.durability import Synced
from convlens_workers.jobs.job import rq_fields
from convlens_workers.jobs.queries import ENTRY, Queries, check_page_token
from convlens_workers.jobs.record import Filter, JobRecord, Reckoned, operation_id
from convlens_workers.jobs.redis_errors import AWAY, redis_errors
from convlens_workers.jobs.settings import JobSettings
from convlens_workers.jobs.stats import speed, to_stats
from convlens_workers.jobs.tidying import tidy
from convlens_workers.telemetry.tracing import traceparent

QUEUE_FULL_RETRY: Final = 10.0
READ_AGAIN: Final = 5.0
"""Seconds after which a watcher reads the record again, told of a change or not."""
PAGE: Final = 50
MOST_READ: Final = 500
"""Records that a list reads at once."""
LOOKED_THROUGH: Final = 1000
"""Entries of the index of all jobs that are put into those of tenants at once, after an upgrade."""
ENDED: Final = 2
"""What the script `cancel` replies when it has ended a job."""
UNKNOWN: Final = Reckoned()
ALL: Final = Filter()

log = logging.getLogger(__name__)


class JobStore:
    """Jobs in Redis and their bytes in the artifact store; for any number of tasks of one event loop.

    Every method raises Unavailable with `retry_after` when Redis is away.
    """

    def __init__(self, redis: Redis, artifacts: ArtifactStore, settings: JobSettings) -> None:
        self._redis: Any = redis
        self._artifacts, self._settings = artifacts, settings
        self._queues = settings.queues()
        self._queries = Queries(redis, tuple(self._queues.values()))
        self._scripts = scripts.bind(redis)
        self._changes = ChangeNotifier(redis)
        self._synced = Synced(settings.redis) if settings.submit_durability == "synced" else None
        self._tenant = ""

    def of(self, tenant: str) -> JobStore:
        """The same store as that tenant sees it: the jobs of others are not there."""
        theirs = copy.copy(self)
        theirs._tenant = tenant
        return theirs

    @classmethod
    def open(cls, settings: JobSettings) -> JobStore:
        """The store of `settings`; connects at the first call."""
        return cls(connect(settings.redis), ArtifactStore(settings.artifacts_url()), settings)

    async def close(self) -> None:
        """End the subscription to changes, and close the connections to Redis."""
        await self._changes.close()
        await self._redis.aclose()
        if self._synced is not None:
            await self._synced.close()

    async def check(self) -> None:
        """Raise FailedPrecondition where Redis is there, and cannot do what `submit_durability` asks for."""
        if self._synced is not None:
            with suppress(*AWAY):
                await self._synced.wait()

    async def ping(self) -> None:
        """Ask Redis whether it takes writes, without one."""
        with redis_errors():
            await self._redis.delete(scripts.NOTHING)

    async def submit(
        self,
        request: job_pb2.SubmitJobRequest,
        *,
        model_digest: str,
        payload: bytes | None = None,
        reckoned: Reckoned = UNKNOWN,
        resumable: bool = False,
        resumed: JobRecord | None = None,
        models: Mapping[str, str] = MappingProxyType({}),
    ) -> JobRecord:
        """Queue a job, once for each request id.

        Args:
            request: validated, defaults filled in, the model's version resolved; it is what the worker gets.
            model_digest: digest of the model's files.
            payload: what the client sent, which decides whether a request id comes with the same payload
                again; default: `request`.
            reckoned: of what there is to do.
            resumable: whether its last checkpoint is kept, for another job to go on from.
            resumed: the job from whose last checkpoint this one goes on.
            models: digests by "name/version" of the networks that it is bound to.

        Raises:
            AlreadyExists: the request id was used with another payload.
            InvalidArgument: there is no queue for the request's priority.
            ResourceExhausted: the queue is full, or the tenant has too many jobs.
            Unavailable: also where Redis's disk takes too long for what is to be synced; it may be queued.
        """
        queue = self._queue_of(request.priority)
        body = _without_tags(request).SerializeToString(deterministic=True)
        sent = hashlib.sha256(body if payload is None else payload).hexdigest()
        id_ = self._id_of(request.request_id)
        known, waiting, speeds = await self._queries.before_submit(id_, queue)
        technique = request.WhichOneof("technique") or ""
        rate = speed(speeds, technique)
        outcome = b"" if known is None else b"same" if known == sent.encode() else b"other"
        if not outcome and waiting >= self._settings.queue_limit:
            outcome = b"full"
        outcome = outcome or await self._intend(id_, queue)
        if outcome == b"yes":
            fields = {
                "technique": technique,
                "model": request.model.SerializeToString(deterministic=True),
                "model_digest": model_digest,
                "priority": request.priority or job_pb2.PRIORITY_NORMAL,
                "cost": reckoned.cost,
                "total_steps": reckoned.steps,
                "expected_seconds": reckoned.cost / rate if rate else 0.0,
                "request": await asyncio.to_thread(self._artifacts.put, id_, "request", body),
                "trace": traceparent(),
                "tags": json.dumps(dict(request.tags)),
                "resumable": int(resumable),
                "models": json.dumps(dict(models)),
            }
            if resumed is not None:
                fields["checkpoints"] = await self._take_over(resumed, id_)
            outcome = await self._enqueue(id_, queue, sent, fields)
        self._refuse(outcome, request.request_id)
        if self._synced is not None:
            await self._synced.wait()
        return await self._queries.record(id_)

    async def get(self, name: str) -> JobRecord:
        """The job "operations/<id>". Raises NotFound."""
        return self._own(await self._queries.record(operation_id(name)))

    async def request(self, record: JobRecord) -> job_pb2.SubmitJobRequest:
        """The request of a job as its worker got it, with its tags. Raises NotFound, DataLoss."""
        data = await asyncio.to_thread(self._artifacts.get, record.id, "request", record.request)
        request = job_pb2.SubmitJobRequest.FromString(data)
        request.tags.update(record.metadata.tags)
        return request

    async def stats(self) -> list[job_pb2.QueueStats]:
        """Lengths, counters and throughput of the queues; a tenant gets counters of its own jobs."""
        return [
            to_stats(await self._call("stats", "", self._tenant, queue=queue), queue, priority)
            for priority, queue in self._queues.items()
        ]

    async def list(
        self,
        *,
        wanted: Filter = ALL,
        page_size: int = PAGE,
        page_token: str = "",
    ) -> tuple[list[JobRecord], str]:
        """A page of jobs, the newest first, without previews, and the token of the next page ("" at the end).

        Raises:
            InvalidArgument: the page token is malformed.
        """
        check_page_token(page_token, ENTRY)
        while self._tenant and not await self._queries.whole():
            await self._call("index", "", LOOKED_THROUGH)
        records: list[JobRecord] = []
        read = page_size
        while True:
            page = await self._queries.page(page_token, read, self._tenant)
            for entry, record in page:
                page_token = entry
                if record is not None and record.tenant == self._tenant and wanted.takes(record):
                    records.append(record)
                if len(records) == page_size:
                    return records, page_token
            if len(page) < read:
                return records, ""
            read = min(2 * read, MOST_READ)  # Few are wanted: what a filter lets through may be far apart.

    async def cancel(self, name: str) -> None:
        """Ask for the end of a job: at once when it waits, within a second when it runs, no effect later.

        The helpers of a job end with it.

        Raises:
            NotFound: no such job.
        """
        if not await self._cancel((await self.get(name)).id):
            raise NotFound(f"no operation {name!r}")
        helpers = (self._id_of(helper_id(name, part)) for part in count(1))
        while await self._cancel(next(helpers)):
            pass

    async def delete(self, name: str) -> None:
        """Remove a finished job and its artifacts.

        Raises:
            NotFound: no such job.
            FailedPrecondition: it has not finished; cancel it first.
        """
        id_ = (await self.get(name)).id
        outcome = await self._call("delete", id_)
        if outcome == -1:
            raise NotFound(f"no operation {name!r}")
        if outcome == 0:
            raise FailedPrecondition(f"{name} has not finished; cancel it first")
        await self._tidy(id_)

    async def wait(self, name: str, timeout: float | None = None) -> JobRecord:
        """The job when it has finished, or as it is after `timeout` seconds."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        async with self._changes.listen(operation_id(name)) as changed:
            # No timeout around it all: what redis waits for may swallow the cancellation, and wait on.
            while not (record := await self.get(name)).done and (left := until - time.monotonic()) > 0:
                await _changed(changed, left)
        return record

    async def watch(
        self, name: str, after_event_id: str = ""
    ) -> AsyncIterator[tuple[str, job_pb2.JobMetadata, Status | None]]:
        """Events (id, metadata, error of the terminal one) after `after_event_id`, until the terminal one.

        The latest events are kept; who comes later than that gets the job's state, once it has finished.

        Raises:
            NotFound: no such job, or it was removed meanwhile.
            OutOfRange: the event id is malformed.
        """
        if after_event_id and not re.fullmatch(r"\d{1,15}-\d{1,15}", after_event_id):
            raise OutOfRange.of("after_event_id", after_event_id, "an event_id of this stream, or empty")
        last = after_event_id or "0-0"
        id_ = operation_id(name)
        async with self._changes.listen(id_) as changed:
            while True:
                events, record = await self._queries.events(id_, last)
                self._own(record)
                for event_id, event in events:
                    last = event_id
                    yield event_id, event.metadata, event.error
                    if event.done:
                        return
                if record.done:
                    yield last, record.metadata, record.error
                    return
                await _changed(changed)

    async def read(
        self, name: str, artifact: str, offset: int = 0
    ) -> tuple[tensor_pb2.TensorHeader, AsyncIterator[bytes]]:
        """Header of one artifact, and its bytes from `offset` on.

        Raises:
            NotFound: no such job, or no such artifact of one that has succeeded.
            FailedPrecondition: no such artifact, and the job has not succeeded.
            OutOfRange: the offset lies beyond the artifact.
            DataLoss: while reading, the stored bytes are damaged.
        """
        record = await self.get(name)
        made = record.result.artifacts if record.result else ()
        headers = {header.name: header for header in (*record.metadata.artifacts, *made)}
        if artifact not in headers:
            state = job_pb2.JobState.Name(record.metadata.state).removeprefix("JOB_STATE_")
            text = f"{name} has no artifact {artifact!r}; it has {', '.join(headers) or 'none'}"
            raise NotFound(text) if record.result else FailedPrecondition(f"{text}, for its state is {state}")
        header = headers[artifact]
        if not 0 <= offset <= header.total_bytes:
            raise OutOfRange.of("read_offset", offset, f"between 0 and {header.total_bytes}")
        return header, self._artifacts.read(record.id, header.sha256, header.total_bytes, offset)

    async def _take_over(self, resumed: JobRecord, id_: str) -> str:
        """The checkpoint of an ended job, as one of the job `id_`. Raises FailedPrecondition without."""
        name, state = resumed.name, job_pb2.JobState.Name(resumed.metadata.state).removeprefix("JOB_STATE_")
        if not resumed.done:
            raise FailedPrecondition(f"{name} has not ended: its state is {state}", reason="JOB_NOT_ENDED")
        if not resumed.checkpoints:
            text = f"{name} has left no checkpoint; where its worker still ends a step, it comes soon"
            raise FailedPrecondition(text, reason="NO_CHECKPOINT")
        (checkpoint, *_) = resumed.checkpoints
        try:
            await asyncio.to_thread(self._artifacts.copy, resumed.id, "checkpoints", checkpoint, id_)
        except NotFound as error:
            raise FailedPrecondition(f"{name} has lost its checkpoint", reason="NO_CHECKPOINT") from error
        return checkpoint

    async def _cancel(self, id_: str) -> bool:
        """Whether there is such a job, which now ends."""
        outcome = await self._call("cancel", id_)
        if outcome == ENDED:
            await self._tidy(id_)
        return outcome is not None

    async def _tidy(self, id_: str) -> None:
        """Remove what an untidy job's record does not name; what fails of it workers do later."""
        try:
            if found := await self._call("untidy", id_):
                due, flat = found
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                await asyncio.to_thread(tidy, self._artifacts, id_, fields)
                await self._call("tidied", id_, due)
        except AWAY as error:
            log.warning("tidied later: %s", error, extra={"operation": id_})

    def _queue_of(self, priority: job_pb2.Priority.ValueType) -> str:
        queue = self._queues.get(priority or job_pb2.PRIORITY_NORMAL)
        if queue is None:
            names = " or ".join(job_pb2.Priority.Name(number) for number in self._queues)
            known = job_pb2.Priority.DESCRIPTOR.values_by_number.get(priority)
            shown = known.name if known else priority
            raise InvalidArgument.of("priority", shown, f"{names} on this server")
        return queue

    async def _intend(self, id_: str, queue: str) -> bytes:
        """Say that objects of a job to be submitted may come: b"yes", or why none may."""
        arguments = (id_, self._settings.queue_limit, self._tenant, self._settings.tenant_limit)
        outcome: bytes = await self._call("intend", *arguments, queue=queue)
        if outcome == b"late":  # An earlier submission came to nothing, or the job was deleted.
            await self._tidy(id_)
            outcome = await self._call("intend", *arguments, queue=queue)
        return outcome

    async def _enqueue(self, id_: str, queue: str, sent: str, fields: Mapping[str, Any]) -> bytes:
        rq = _flat(rq_fields(id_, queue))
        limits = (self._settings.queue_limit, self._tenant, self._settings.tenant_limit)
        arguments = (id_, sent, *limits, len(rq), *rq, *_flat(fields))
        outcome: bytes = await self._call("submit", *arguments, queue=queue)
        return outcome

    def _refuse(self, outcome: bytes, request_id: str) -> None:
        if outcome == b"full":
            full = f"the queue is full: {self._settings.queue_limit} jobs wait"
            raise ResourceExhausted(full, reason="JOB_QUEUE_FULL", retry_after=QUEUE_FULL_RETRY)
        if outcome == b"tenant":
            limit = self._settings.tenant_limit
            most = f"tenant {self._tenant!r} has {limit} jobs that wait or run, the most it may"
            raise ResourceExhausted(most, reason="TENANT_LIMIT", retry_after=QUEUE_FULL_RETRY)
        if outcome == b"late":
            raise Unavailable("what is left of a job of this request_id is being removed", retry_after=2.0)
        if outcome == b"other":
            used = f"request_id {request_id!r} was used with another payload"
            raise AlreadyExists(used, field="request_id")

    def _own(self, record: JobRecord) -> JobRecord:
        """The record, if it is of this tenant's job. Raises NotFound."""
        if record.tenant != self._tenant:
            raise NotFound(f"no operation {record.name!r}")
        return record

    def _id_of(self, request_id: str) -> str:
        """The operation's id follows from the request id, so that the record itself is the memory of it."""
        if not request_id:
            return uuid.uuid4().hex
        name = f"{self._tenant}\n{request_id}" if self._tenant else request_id
        return hashlib.sha256(name.encode()).hexdigest()[:32]

    async def _call(self, script: str, *arguments: Any, queue: str = "") -> Any:
        context = scripts.context(self._settings, queue)
        with redis_errors():
            return await self._scripts[script](args=[*context, *arguments])


def helper_id(operation: str, part: int) -> str:
    """The request id of the job that is part `part`, from 1, of an operation that several jobs share."""
    return f"{operation}/{part}"


def _without_tags(request: job_pb2.SubmitJobRequest) -> job_pb2.SubmitJobRequest:
    """What a worker gets: tags, which only the record needs, are not for it."""
    given = job_pb2.SubmitJobRequest()
    given.CopyFrom(request)
    given.ClearField("tags")
    return given


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]


async def _changed(changed: asyncio.Event, most: float = math.inf) -> None:
    """Wait for a change, for at most `most` seconds, and no longer than `READ_AGAIN`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(min(READ_AGAIN, most)):
            await changed.wait()
    changed.clear()
