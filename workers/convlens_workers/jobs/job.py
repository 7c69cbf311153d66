"""What RQ sees of a job: its id, and the name of one function. Never a pickle, never another function.

RQ imports a job's function by its name, whatever the serializer, so that whoever can write to Redis could run
code in a worker. `QueuedJob` refuses everything but the one constant name, and callbacks altogether.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import utcformat

FUNCTION: Final = "convlens_workers.jobs.job.run"
CALLBACKS: Final = ("success_callback_name", "failure_callback_name", "stopped_callback_name", "webhooks")

log = logging.getLogger(__name__)


class RefusedJob(NoSuchJobError):
    """The entry in Redis is not one of ours; RQ passes over it as over one that is gone."""


class QueuedJob(Job):
    """An RQ job that can only be an operation of ours."""

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None) -> None:  # noqa: A002
        super().__init__(id, connection=connection, serializer=JSONSerializer)

    def restore(self, raw_data: Any) -> None:
        """Take over what Redis holds. Raises RefusedJob unless it is the one function on this job's id."""
        if any(raw_data.get(name.encode()) for name in CALLBACKS):
            self._refuse("it has callbacks")
        try:
            super().restore(raw_data)
            call = [self.func_name, self.instance, list(self.args), self.kwargs]
        except NoSuchJobError:
            raise
        except Exception as error:
            raise RefusedJob(f"RQ job {self.id} is unreadable") from error
        if call != _call(self.id):
            self._refuse("it calls something else")

    def _refuse(self, reason: str) -> NoReturn:
        log.error("RQ job %s is refused: %s", self.id, reason)
        raise RefusedJob(f"RQ job {self.id} is refused: {reason}")


def run(operation_id: str) -> NoReturn:
    """What a plain `rq worker` on this queue would call: it has no device process, and says so."""
    raise RuntimeError(f"operation {operation_id} needs a convlens-worker")


def rq_fields(operation_id: str, queue: str) -> dict[str, str]:
    """The hash that RQ keeps for a queued job, as `Job.to_dict` would write it."""
    created = utcformat(datetime.now(UTC))
    return {
        "data": json.dumps(_call(operation_id)),
        "origin": queue,
        "status": "queued",
        "description": f"operations/{operation_id}",
        "timeout": "-1",
        "created_at": created,
        "enqueued_at": created,
    }


def _call(operation_id: str) -> list[Any]:
    return [FUNCTION, None, [operation_id], {}]
