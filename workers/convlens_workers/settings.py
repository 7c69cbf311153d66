"""The settings of a worker, read from its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from convlens_workers.jobs.settings import JobSettings


class WorkerSettings(JobSettings):
    """Device, networks and time limits of a worker; every field is read from CONVLENS_<NAME>."""

    models: Path | None = None
    """Folder of the model repository, which is laid over the embedded one; by default a folder in the user's
    data directory."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Device on which PyTorch computes: "auto" is CUDA where there is a GPU and else the CPU, "cuda" and
    "cuda:1" demand the first and the second GPU."""
    warm_models: int = Field(default=3, ge=1)
    """Number of networks that stay on the device from one job to the next."""
    checkpoint_interval: float = Field(default=10.0, gt=0)
    """Seconds between checkpoints, which is the work that a crash may cost."""
    lease: float = Field(default=10.0, ge=0.5)
    """Seconds without a report after which a job is taken from its worker; it must be the same for all
    workers."""
    hang_timeout: float = Field(default=300.0, gt=0)
    """Seconds that the device process may go without an event in a job before it is killed; it must be longer
    than the longest step."""
    job_timeout: float = Field(default=86400.0, gt=0)
    """Seconds that a job may run, all its attempts together, before it fails with DEADLINE_EXCEEDED, reason
    JOB_TIMEOUT."""
    grace: float = Field(default=8.0, gt=0)
    """Seconds that the device process has to stop when it is told to, before it is killed."""
    log_level: str = "INFO"
    """Least severe level that the log holds, by its name in Python's logging module."""
