"""Settings of the job plane, the same for servers and workers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import platformdirs
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from convlens.v1 import job_pb2
from convlens_workers.telemetry.logs import Format

PRIORITIES: Final[dict[str, job_pb2.Priority.ValueType]] = {
    "high": job_pb2.PRIORITY_HIGH,
    "low": job_pb2.PRIORITY_LOW,
}


SOURCES: Final = SettingsConfigDict(
    env_prefix="CONVLENS_",
    secrets_dir=os.environ.get("CONVLENS_SECRETS") or None,
    frozen=True,
    use_attribute_docstrings=True,
)
"""Settings come from CONVLENS_<NAME>, or else from a file convlens_<name> in the folder CONVLENS_SECRETS."""


class JobSettings(BaseSettings):
    """Where jobs are kept, and for how long.

    Every field is read from the environment variable of its name with the prefix, as CONVLENS_REDIS, or from
    a file, see `SOURCES`.
    """

    model_config = SOURCES

    redis: str = "redis://127.0.0.1:6379/0"
    """URL of the one Redis (no cluster) of version 6.2 or newer, with the policy `noeviction`, that holds
    jobs and collections; a server with an empty one takes no jobs."""
    artifacts: str = ""
    """Folder, or URL such as s3://bucket/prefix, of the artifact store; by default a folder in the user's
    data directory."""
    queue: str = "convlens"
    """Name of the RQ queue into which a server puts jobs, and from which a worker takes them."""
    priorities: str = Field(default="", pattern=r"^((high|low)(,(high|low))?)?$")
    """Priorities that servers offer beside the normal one; each is a queue of its own, "<queue>-high" or
    "<queue>-low", that needs workers of its own."""
    queue_limit: int = Field(default=1000, ge=1)
    """Number of jobs that may wait in one queue; more are refused with RESOURCE_EXHAUSTED, reason
    JOB_QUEUE_FULL."""
    tenant_limit: int = Field(default=0, ge=0)
    """Number of jobs of one tenant that may wait or run, over all servers; more are refused with
    RESOURCE_EXHAUSTED, reason TENANT_LIMIT. 0 sets no limit."""
    job_ttl: int = Field(default=7 * 86400, ge=60)
    """Seconds for which the record of a finished job is kept; its artifacts stay for up to a day longer."""
    metrics_listen: str = Field(default="", pattern=r"^(.+:\d{1,5})?$")
    """Address and port on which this process tells its metrics to Prometheus; empty for none."""
    log_format: Format = "auto"
    """Form of the log's lines: "json" is an object a line, "text" is for people, "auto" is text on a terminal
    and JSON elsewhere."""
    event_limit: int = Field(default=100, ge=10)
    """Number of the latest events of a job that watchers can still read."""
    victims: dict[str, str] = Field(default_factory=dict)
    """Servers that substitute attacks may query, by name: {"self": "127.0.0.1:8500", "theirs":
    "oip://10.0.0.7:8001/resnet"}. "oip" speaks the Open Inference Protocol, a path names a model that is
    called otherwise there, and "self" is meant where a request names none."""
    training_folders: dict[str, Path] = Field(default_factory=dict)
    """Folders of pictures that style networks may learn from, by name; the same on servers and workers."""

    def queues(self) -> dict[job_pb2.Priority.ValueType, str]:
        """Name of the queue of each priority that there is."""
        beside = [name for name in self.priorities.split(",") if name]
        named = {PRIORITIES[name]: f"{self.queue}-{name}" for name in beside}
        return {job_pb2.PRIORITY_NORMAL: self.queue} | named

    def artifacts_url(self) -> str:
        """`artifacts` as a URL."""
        place = self.artifacts or str(Path(platformdirs.user_data_dir("convlens")) / "artifacts")
        return place if "://" in place else Path(place).expanduser().resolve().as_uri()
