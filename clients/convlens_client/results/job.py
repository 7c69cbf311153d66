"""Jobs as the server last told of them."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

from convlens.errors import ConvLensError

FINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


@dataclasses.dataclass(frozen=True, slots=True)
class Artifact:
    """A stored tensor, without its bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    total_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True)
class JobPicture:
    """A picture that a job was given, without its bytes; fields as in `convlens.v1.JobPicture`."""

    path: str
    name: str
    sha256: str
    total_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class JobRequest:
    """What a job was asked for.

    Attributes:
        technique: its name.
        model: name and version.
        seed: of everything random.
        parameters: of the technique, by name, defaults filled in; pictures are not among them.
        pictures: what it was given.
        tags: what it can be found again by.
        message: the whole `convlens.v1.SubmitJobRequest`, pictures without their bytes.
    """

    technique: str
    model: str
    seed: int
    parameters: dict[str, Any]
    pictures: tuple[JobPicture, ...]
    tags: dict[str, str]
    message: Any


@dataclasses.dataclass(frozen=True, slots=True)
class JobMetadata:
    """State of a job; fields as in `convlens.v1.JobMetadata`, with `state` such as "RUNNING", and `priority`
    "NORMAL", "HIGH" or "LOW"."""

    state: str
    technique: str
    model: str
    step: int
    total_steps: int
    losses: dict[str, float]
    queue_position: int
    attempt: int
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    expire_time: datetime | None
    preview: bytes
    device: str
    model_digest: str
    cancel_requested: bool
    priority: str
    expected_seconds: float
    bit_exact: bool
    tags: dict[str, str]
    artifacts: tuple[Artifact, ...]
    resumable: bool
    remaining_seconds: float | None

    @property
    def final(self) -> bool:
        """True when the state will not change any more."""
        return self.state in FINAL_STATES


@dataclasses.dataclass(frozen=True, slots=True)
class QueueStats:
    """How a queue stands; fields as in `convlens.v1.QueueStats`."""

    priority: str
    queue: str
    queued: int
    running: int
    oldest_queued_seconds: float
    counters: dict[str, int]
    throughput: dict[str, float]
    workers: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Descent:
    """How far a minimisation has come; fields as in `convlens.v1.Descent`."""

    first_loss: float
    last_loss: float
    expected_fall: float


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """An operation as the server last told of it; `report` is one of `convlens_client.reports`.

    `descent` is there where the technique minimises a loss; `warnings` say what is doubtful about the result.
    """

    name: str
    done: bool
    metadata: JobMetadata
    error: ConvLensError | None
    artifacts: tuple[Artifact, ...]
    report: Any = None
    descent: Descent | None = None
    warnings: tuple[str, ...] = ()
