"""Settings of the job plane, the same for servers and workers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from convlens.errors import InvalidArgument, shortened
from convlens.v1 import job_pb2
from convlens_workers.telemetry.logs import Format

S = TypeVar("S", bound=BaseSettings)

PREFIX: Final = "CONVLENS_"
SCHEMES: Final = ("redis://", "rediss://", "unix://")
PRIORITIES: Final[dict[str, job_pb2.Priority.ValueType]] = {
    "high": job_pb2.PRIORITY_HIGH,
    "low": job_pb2.PRIORITY_LOW,
}


SOURCES: Final = SettingsConfigDict(
    env_prefix=PREFIX,
    secrets_dir=os.environ.get("CONVLENS_SECRETS") or None,
    frozen=True,
    use_attribute_docstrings=True,
)
"""Settings come from CONVLENS_<NAME>, or else from a file convlens_<name> in the folder CONVLENS_SECRETS."""


def read(kind: type[S]) -> S:
    """The settings of this process.

    Raises:
        InvalidArgument: values that are not allowed. It names their variables and says what is allowed; the
            values of fields without `repr` are not shown, for they may hold passwords.
    """
    try:
        return kind()
    except ValidationError as error:
        raise InvalidArgument("; ".join(_told(kind, each) for each in error.errors())) from None
    except SettingsError as error:
        name = next((name for name in kind.model_fields if f'"{name}"' in str(error)), "")
        raise InvalidArgument(f"{PREFIX}{name.upper()}: must be JSON") from None


def _told(kind: type[BaseSettings], error: Any) -> str:
    allowed = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(allowed)
    name = error["loc"][0]
    shown = f" = {shortened(error['input'])}" if kind.model_fields[name].repr else ""
    return f"{PREFIX}{name.upper()}{shown}: {allowed[:1].lower()}{allowed[1:]}"


def redis_url(url: str) -> str:
    """A setting that is empty, or the URL of a Redis. Raises ValueError, without the URL."""
    if url and not url.startswith(SCHEMES):
        raise ValueError(f"must begin with {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}")
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise ValueError("must name its port by a number up to 65535") from None
    return url


class JobSettings(BaseSettings):
    """Where jobs are kept, and for how long.

    Every field is read from the environment variable of its name with the prefix, as CONVLENS_REDIS, or from
    a file, see `SOURCES`.
    """

    model_config = SOURCES

    redis: str = Field(default="redis://127.0.0.1:6379/0", repr=False)
    """URL of the one Redis (no cluster) of version 6.2 or newer, with the policy `noeviction`, that holds
    jobs and collections; a server with an empty one takes no jobs."""
    artifacts: str = Field(default="", repr=False)
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
    submit_durability: Literal["received", "synced"] = "received"
    """When a submission is answered: "received", once Redis has it, which may lose it in a crash as its
    `appendfsync` says; "synced", once it is on Redis's disk too, by WAITAOF: with an append-only file, in
    Redis 7.2 or newer or in Valkey, whose user may `+waitaof`. Read by servers."""
    job_ttl: int = Field(default=7 * 86400, ge=60)
    """Seconds for which the record of a finished job is kept; its artifacts stay for up to a day longer."""
    metrics_listen: str = Field(default="", pattern=r"^(.+:\d{1,5})?$")
    """Address and port on which this process tells its metrics to Prometheus; empty for none."""
    log_format: Format = "auto"
    """Form of the log's lines: "json" is an object a line, "text" is for people, "auto" is text on a terminal
    and JSON elsewhere."""
    event_limit: int = Field(default=100, ge=10)
    """Number of the latest events of a job that watchers can still read."""
    victims: dict[str, str] = Field(default_factory=dict, repr=False)
    """Servers that substitute attacks may query, by name: {"self": "127.0.0.1:8500", "theirs":
    "oip://10.0.0.7:8001/resnet"}. "oip" speaks the Open Inference Protocol, a path names a model that is
    called otherwise there, and "self" is meant where a request names none."""
    training_folders: dict[str, Path] = Field(default_factory=dict)
    """Folders of pictures that style networks may learn from, by name; the same on servers and workers."""

    @field_validator("redis")
    @classmethod
    def _has_a_scheme(cls, url: str) -> str:
        return redis_url(url)

    def queues(self) -> dict[job_pb2.Priority.ValueType, str]:
        """Name of the queue of each priority that there is."""
        beside = [name for name in self.priorities.split(",") if name]
        named = {PRIORITIES[name]: f"{self.queue}-{name}" for name in beside}
        return {job_pb2.PRIORITY_NORMAL: self.queue} | named

    def artifacts_url(self) -> str:
        """`artifacts` as a URL."""
        place = self.artifacts or str(Path(platformdirs.user_data_dir("convlens")) / "artifacts")
        return place if "://" in place else Path(place).expanduser().resolve().as_uri()
