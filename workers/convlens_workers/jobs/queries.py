"""Reads records and events of jobs out of Redis."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from convlens.errors import DataLoss, InvalidArgument, NotFound
from convlens.v1 import job_pb2
from convlens_workers.jobs import scripts
from convlens_workers.jobs.record import JobRecord
from convlens_workers.jobs.redis_errors import redis_errors


def check_page_token(token: str, form: re.Pattern[str]) -> None:
    """Raise InvalidArgument unless a page token is empty or has the form that the list gives."""
    if token and not form.fullmatch(token):
        raise InvalidArgument.of("page_token", token, "the next_page_token of a page before")


log = logging.getLogger(__name__)


class Outlook(NamedTuple):
    """What is known before a job is submitted."""

    payload: bytes | None
    """Digest of the payload that the id was used with, if it was."""
    waiting: int
    """The number of jobs in the queue."""
    speeds: Mapping[bytes, bytes]
    """Multiply-adds a second that jobs of the queue had lately, as Redis keeps them; see `stats.speed`."""


ENTRY: Final = re.compile(r"\d{13}-[0-9a-f]{32}")
"""An entry of the index of all jobs: the time of its creation in ms, and its id."""


class Queries:
    """Reads what Redis holds of jobs, without changing any."""

    def __init__(self, redis: Any, queues: Sequence[str]) -> None:
        self._redis = redis
        self._queues = queues
        self._whole = False

    async def before_submit(self, id_: str, queue: str) -> Outlook:
        """What is known about an id and a queue before a job is put there."""
        with redis_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hget(scripts.OPERATION + id_, "payload")
                pipe.llen(f"rq:queue:{queue}")
                pipe.hgetall(scripts.SPEEDS + queue)
                pipe.delete(scripts.NOTHING)
                known, waiting, speeds, _ = await pipe.execute()
        return Outlook(known, waiting, speeds)

    async def record(self, id_: str) -> JobRecord:
        """The job, with its position in the queue. Raises NotFound."""
        with redis_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hgetall(scripts.OPERATION + id_)
                for queue in self._queues:
                    pipe.lpos(f"rq:queue:{queue}", id_)
                fields, *positions = await pipe.execute()
        record = _known(id_, fields)
        if record.metadata.state == job_pb2.JOB_STATE_QUEUED:
            record.metadata.queue_position = max(position or 0 for position in positions)
        return record

    async def events(self, id_: str, after: str) -> tuple[list[tuple[str, JobRecord]], JobRecord]:
        """The events of a job that are kept, by id, from behind `after` on; and the job. Raises NotFound."""
        with redis_errors():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.xrange(scripts.EVENTS + id_, min=f"({after}")
                pipe.hgetall(scripts.OPERATION + id_)
                entries, fields = await pipe.execute()
        events = [(key.decode(), JobRecord.from_fields(id_, event)) for key, event in entries]
        return events, _known(id_, fields)

    async def whole(self) -> bool:
        """Whether the indexes of tenants hold all their jobs, those of older servers too."""
        if not self._whole:
            with redis_errors():
                self._whole = bool(await self._redis.hget(scripts.INDEXED, scripts.WHOLE))
        return self._whole

    async def page(self, before: str, count: int, tenant: str) -> list[tuple[str, JobRecord | None]]:
        """Up to `count` jobs older than the index entry `before` ("" none), newest first, without previews.

        They are the tenant's; of "" those of all. Each comes with its index entry. Those that have expired
        are None, and leave the index; those whose record cannot be read are None, and are logged.
        """
        index = scripts.TENANT_INDEX + tenant if tenant else scripts.INDEX
        with redis_errors():
            highest = f"({before}" if before else "+"
            members = await self._redis.zrevrangebylex(index, highest, "-", 0, count)
            entries = [member.decode() for member in members]
            async with self._redis.pipeline(transaction=False) as pipe:
                for entry in entries:
                    pipe.hgetall(scripts.OPERATION + _id(entry))
                rows = await pipe.execute() if entries else []
            gone = [entry for entry, fields in zip(entries, rows, strict=True) if not fields]
            if gone:
                await self._redis.zrem(index, *gone)
        return [(entry, _without_preview(entry, row)) for entry, row in zip(entries, rows, strict=True)]


def _known(id_: str, fields: dict[bytes, bytes]) -> JobRecord:
    if not fields:
        raise NotFound(f"no operation 'operations/{id_}'")
    return JobRecord.from_fields(id_, fields)


def _id(entry: str) -> str:
    return entry.partition("-")[2]


def _without_preview(entry: str, fields: dict[bytes, bytes]) -> JobRecord | None:
    fields.pop(b"preview", None)
    try:
        return JobRecord.from_fields(_id(entry), fields) if fields else None
    except DataLoss as error:
        log.error("left out of a list: %s", error)
        return None
