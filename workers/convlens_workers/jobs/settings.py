"""Settings of the job plane, the same for servers and workers."""

from __future__ import annotations

from pathlib import Path

import platformdirs
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class JobSettings(BaseSettings):
    """Where jobs are kept, and for how long.

    Every field is read from the environment variable of its name with the prefix, as CONVLENS_REDIS.
    """

    model_config = SettingsConfigDict(env_prefix="CONVLENS_", frozen=True)

    redis: str = "redis://127.0.0.1:6379/0"
    """One Redis (no cluster) of version 6.2 or newer, with policy `noeviction`."""
    artifacts: str = ""
    """Folder or URL (s3://bucket/prefix, ...) of the artifact store; default: the user's data folder."""
    queue: str = "convlens"
    """Name of the RQ queue; a worker serves one."""
    queue_limit: int = Field(default=1000, ge=1)
    """Jobs that may wait; more are refused with RESOURCE_EXHAUSTED."""
    job_ttl: int = Field(default=7 * 86400, ge=60)
    """Seconds that a finished job's record is kept; its artifacts stay up to a day longer."""
    event_limit: int = Field(default=100, ge=10)
    """Latest events of a job that watchers can still read."""

    def artifacts_url(self) -> str:
        """`artifacts` as a URL."""
        place = self.artifacts or str(Path(platformdirs.user_data_dir("convlens")) / "artifacts")
        return place if "://" in place else Path(place).expanduser().resolve().as_uri()
