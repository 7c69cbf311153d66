"""The settings of a worker, read from its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from convlens_workers.jobs.settings import JobSettings


class WorkerSettings(JobSettings):
    """What a worker computes on, and how long it waits; every field is read from CONVLENS_<NAME>."""

    models: Path | None = None
    """Model repository laid over the embedded one; default: the user's data folder."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """"auto" takes CUDA where there is a GPU, and else the CPU."""
    warm_models: int = Field(default=3, ge=1)
    """Networks kept on the device from one job to the next."""
    checkpoint_interval: float = Field(default=10.0, gt=0)
    """Seconds of work that a crash may cost."""
    lease: float = Field(default=10.0, ge=0.5)
    """Seconds without a report after which a job is taken from its worker; the same for all workers."""
    hang_timeout: float = Field(default=300.0, gt=0)
    """Seconds that the device process may go without an event in a job before it is killed."""
    job_timeout: float = Field(default=86400.0, gt=0)
    """Seconds that a job may run, all its attempts together; then it fails with DEADLINE_EXCEEDED."""
    grace: float = Field(default=8.0, gt=0)
    """Seconds that the device process gets to stop when it is told to, before it is killed."""
    log_level: str = "INFO"
    """Name of a level of the standard logging module."""
