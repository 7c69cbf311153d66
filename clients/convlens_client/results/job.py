"""Jobs as the server last told of them."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

from convlens.errors import ConvLensError

FINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


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
class Artifact:
    """A stored tensor, without its bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    total_bytes: int
    sha256: str


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
