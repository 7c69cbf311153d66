"""A job's record: a Redis hash, JobMetadata and google.longrunning.Operation are three forms of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NoReturn

from google.longrunning.operations_pb2 import Operation
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from convlens.errors import DataLoss, InvalidArgument, NotFound
from convlens.v1 import job_pb2, model_pb2

PREFIX: Final = "operations/"
TERMINAL: Final = frozenset(
    (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)
)
TAGS: Final = "tags."
TAG_NAME_CHARACTERS: Final = "A-Z a-z 0-9 _ . -"
TAG_VALUE_CHARACTERS: Final = "letters and digits of any script and _ . : / @ + -"
TAG_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,63}")
TAG_VALUE: Final = re.compile(r"[\w.:/@+-]{0,128}")
TERM: Final = re.compile(
    rf"""(?P<name>state|technique|tags\.{TAG_NAME.pattern})\s*=\s*"?(?P<value>{TAG_VALUE.pattern})"?"""
)
"""One term of a list's filter."""
STATES: Final = {name.removeprefix("JOB_STATE_"): number for name, number in job_pb2.JobState.items()}


def _time(raw: bytes) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(int(raw))
    return stamp


# Field of the Redis hash, named as in JobMetadata, to its value there.
_METADATA: Final[dict[str, Callable[[bytes], Any]]] = {
    "state": int,
    "technique": bytes.decode,
    "model": model_pb2.ModelRef.FromString,
    "step": int,
    "total_steps": int,
    "losses": json.loads,
    "queue_position": int,
    "attempt": int,
    "create_time": _time,
    "start_time": _time,
    "end_time": _time,
    "expire_time": _time,
    "preview": bytes,
    "device": bytes.decode,
    "model_digest": bytes.decode,
    "cancel_requested": lambda raw: raw == b"1",
    "priority": int,
    "expected_seconds": float,
    "bit_exact": lambda raw: raw == b"1",
    "tags": json.loads,
    "artifacts": lambda raw: job_pb2.JobResult.FromString(raw).artifacts,
    "resumable": lambda raw: raw == b"1",
    "remaining_seconds": float,
}

# The same for the fields of `JobRecord` that clients do not see.
_BESIDE: Final[dict[str, Callable[[bytes], Any]]] = {
    "request": bytes.decode,
    "result": job_pb2.JobResult.FromString,
    "error": Status.FromString,
    "token": bytes.decode,
    "checkpoints": lambda raw: tuple(raw.decode().split()),
    "ran": lambda raw: int(raw) / 1000,
    "tenant": bytes.decode,
    "trace": bytes.decode,
    "models": json.loads,
}


def _values(table: Mapping[str, Callable[[bytes], Any]], fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    values = {}
    for name, read in table.items():
        if name.encode() in fields:
            try:
                values[name] = read(fields[name.encode()])
            except (ValueError, DecodeError) as error:
                raise DataLoss(f"the record is damaged: {name} cannot be read") from error
    return values


@dataclass(frozen=True)
class JobRecord:
    """The record of a job, as it is kept in Redis."""

    id: str
    metadata: job_pb2.JobMetadata
    request: str = ""
    """SHA-256 of the stored SubmitJobRequest."""
    result: job_pb2.JobResult | None = None
    error: Status | None = None
    token: str = ""
    """Fencing token of the running attempt."""
    checkpoints: tuple[str, ...] = ()
    """SHA-256 of the checkpoints, newest first."""
    ran: float = 0.0
    """Seconds that attempts before the running one took together."""
    tenant: str = ""
    """Name of the tenant whose job it is; "" where there are no tenants."""
    trace: str = ""
    """W3C traceparent of the call that submitted it; "" where there was none."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Digests by "name/version" of the networks that it is bound to."""

    @classmethod
    def from_fields(cls, operation_id: str, fields: Mapping[bytes, bytes]) -> JobRecord:
        """The record of a Redis hash. Raises DataLoss for one that cannot be read."""
        try:
            values = _values(_METADATA, {name: raw for name, raw in fields.items() if raw != b""})
            return cls(operation_id, job_pb2.JobMetadata(**values), **_values(_BESIDE, fields))
        except (DataLoss, TypeError, ValueError) as error:
            raise DataLoss(f"{PREFIX}{operation_id}: {error}") from error

    @property
    def name(self) -> str:
        """Resource name, "operations/<id>"."""
        return PREFIX + self.id

    @property
    def done(self) -> bool:
        """True once the state cannot change any more."""
        return self.metadata.state in TERMINAL


def to_operation(record: JobRecord, *, preview: bool = True) -> Operation:
    """The record as a `google.longrunning.Operation`; lists leave out the preview."""
    metadata = job_pb2.JobMetadata()
    metadata.CopyFrom(record.metadata)
    if not preview:
        metadata.preview = b""
    operation = Operation(name=record.name, done=record.done)
    operation.metadata.Pack(metadata)
    if record.metadata.state == job_pb2.JOB_STATE_SUCCEEDED:
        operation.response.Pack(record.result or job_pb2.JobResult())
    elif record.done and record.error is not None:
        operation.error.CopyFrom(record.error)
    return operation


def operation_id(name: str) -> str:
    """The id in "operations/<id>". Raises NotFound for anything else, for there is no such operation."""
    if not re.fullmatch(r"operations/[0-9a-f]{32}", name):
        raise NotFound(f"no operation {name!r}; names are operations/ and 32 hexadecimal digits")
    return name.removeprefix(PREFIX)


class Reckoned(NamedTuple):
    """What a job is reckoned to be before it runs; 0 where that is not known."""

    cost: float = 0.0
    """Multiply-adds of the whole job."""
    steps: int = 0
    """Steps of the whole job, as `JobMetadata.total_steps` counts them."""


class Filter(NamedTuple):
    """The state, the technique and the tags of the jobs that a list asks for."""

    state: int | None = None
    """A number of JobState; None for any."""
    technique: str = ""
    """Its name; "" for any."""
    tags: Mapping[str, str] = MappingProxyType({})
    """Those that a job must have, with their values."""

    def takes(self, record: JobRecord) -> bool:
        """Whether a job is one of those."""
        job = record.metadata
        return (
            self.state in (None, job.state)
            and self.technique in ("", job.technique)
            and self.tags.items() <= dict(job.tags).items()
        )


def parse_filter(text: str) -> Filter:
    """A list's filter: "state=RUNNING", "technique=deepdream", "tags.who=ana", or several joined by AND.

    Empty asks for all.

    Raises:
        InvalidArgument: any other filter.
    """
    wanted: dict[str, str] = {}
    for term in re.split(r"\s+AND\s+", text.strip()) if text.strip() else ():
        match = TERM.fullmatch(term)
        if match is None or match["name"] in wanted:
            _refuse_filter(text)
        wanted[match["name"]] = match["value"]
    state = wanted.pop("state", "").removeprefix("JOB_STATE_")
    if state and not STATES.get(state):
        _refuse_filter(text)
    technique = wanted.pop("technique", "")
    tags = {name.removeprefix(TAGS): value for name, value in wanted.items()}
    return Filter(STATES[state] if state else None, technique, tags)


def check_tags(tags: Mapping[str, str]) -> None:
    """Raise InvalidArgument unless each tag has a name and a value that a filter can ask for."""
    for name, value in tags.items():
        if not TAG_NAME.fullmatch(name):
            raise InvalidArgument.of("tags", name, f"named by 1 to 63 of {TAG_NAME_CHARACTERS}")
        if not TAG_VALUE.fullmatch(value):
            raise InvalidArgument.of(f"tags.{name}", value, f"0 to 128 of {TAG_VALUE_CHARACTERS}")


def _refuse_filter(text: str) -> NoReturn:
    states = ", ".join(f"state={name}" for name, number in STATES.items() if number)
    allowed = f"empty, or one of {states}, technique=NAME, tags.NAME=VALUE, or several of them joined by AND"
    raise InvalidArgument.of("filter", text, allowed)
