"""All that supervisor and device process say to each other, over a pipe between the two processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Configure:
    """To the device process, once, first: what it computes on, and where it finds what."""

    models: Path | None
    artifacts: str
    device: str
    checkpoint_interval: float
    warm_models: int
    victims: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """To the device process: run a job. `request` and `checkpoints` are SHA-256 of stored objects.

    `models` are the digests, by "name/version", of the networks that the job is bound to.
    """

    operation: str
    request: str
    checkpoints: tuple[str, ...]
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stop:
    """To the device process: end the running job after this step.

    With a checkpoint where `save`, and with the picture so far as an artifact where `show`.
    """

    save: bool
    show: bool = False


@dataclass(frozen=True)
class Ready:
    """The device process has its device and waits for a job."""

    device: str


@dataclass(frozen=True)
class Progress:
    """Where the job is; `preview` is a JPEG, or empty where there is no new one."""

    step: int
    total: int
    losses: Mapping[str, float]
    preview: bytes
    bit_exact: bool = True
    remaining: float | None = None
    """Seconds until the end; None while that is not known."""


@dataclass(frozen=True)
class Checkpointed:
    """A checkpoint is stored under this SHA-256; `seconds` is what it has cost."""

    digest: str
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Saved:
    """A picture on the way is stored; `artifact` is its serialised TensorHeader."""

    artifact: bytes


@dataclass(frozen=True)
class Waiting:
    """The artifact store is away; the device process tries again."""


@dataclass(frozen=True)
class Finished:
    """The job is done; `result` is a serialised JobResult whose artifacts are stored."""

    result: bytes


@dataclass(frozen=True)
class Failed:
    """The job cannot be done; `status` is a serialised google.rpc.Status."""

    status: bytes


@dataclass(frozen=True)
class Stopped:
    """The job was ended by Stop."""


@dataclass(frozen=True)
class Died:
    """The supervisor's own: the device process is gone, or was killed because it did not answer."""

    reason: str


End = Finished | Failed | Stopped | Died
Event = Ready | Progress | Checkpointed | Saved | Waiting | End
