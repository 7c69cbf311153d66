"""The server's settings, read once from the environment (prefix CONVLENS_)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from convlens_server.identity.settings import IdentitySettings
from convlens_server.serving.cpus import cpus
from convlens_workers.jobs.settings import JobSettings


class ServerSettings(JobSettings, IdentitySettings):
    """Where the server listens, what it serves, how much of the machine it takes.

    An empty `redis` switches the long lane off.
    """

    listen: str = "127.0.0.1:8500"
    """Address and port; port 0 takes a free one."""
    models: Path | None = None
    """Model repository, laid over the embedded one; default: the user's data folder."""

    processes: int = Field(default=1, ge=1, le=256)
    """Servers behind the one port, each with its share of `threads` and `lanes`; that of number n tells its
    metrics and its health on a port n further. All other limits are each one's own."""
    share_port: bool = False
    """Let other processes listen on the same port, and the kernel spread connections over them."""
    threads: int = Field(default_factory=cpus, ge=1, le=1024)
    """Threads that all passes of networks may use together: a call that is alone has them all."""
    lanes: int = Field(default_factory=cpus, ge=1, le=1024)
    """Calls that compute at the same time; with a GPU at least 32 unless it is set, so that batches form."""
    batching: Literal["auto", "on", "off"] = "auto"
    """Whether concurrent calls become one pass, for models whose manifest says how; "auto": on a GPU."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """What ONNX Runtime computes on; "auto" is CUDA where it works, "cuda:1" demands the second GPU."""
    device_megabytes: int = Field(default=0, ge=0)
    """Memory of the GPU that values may take; 0: no limit."""
    warm: tuple[str, ...] = ("patterns",)
    """Models that are loaded before the server is ready, as JSON."""
    health_listen: str = Field(default="", pattern=r"^(.+:\d{1,5})?$")
    """Address and port of a plain-text health service for probes beside the one on `listen`; empty: none."""
    connection_age: float = Field(default=0.0, ge=0)
    """Seconds after which a connection is to be made anew, so that clients find new servers; 0: never."""
    max_waiting: int = Field(default=256, ge=0)
    """Calls that may wait for a lane; more are refused with RESOURCE_EXHAUSTED."""
    max_waiting_megabytes: int = Field(default=256, ge=1)
    """What their requests may hold, together with those that compute; the same."""
    max_wait: float = Field(default=5.0, gt=0)
    """Seconds that a call may be expected to wait for a lane; the same."""
    max_streams: int = Field(default=256, ge=1)
    """Replies that may be streamed at the same time, slowly or not; the same."""
    max_long_calls: int = Field(default=1024, ge=1)
    """Calls that may wait for jobs, send artifacts or receive collections at the same time; the same."""
    cache_seconds: float = Field(default=0.0, ge=0, le=30 * 86400)
    """Seconds for which replies to pure quick calls are kept in Redis; 0: not at all."""
    cache_megabytes: int = Field(default=64, ge=1)
    """What these replies may take in Redis together, whichever server they come from."""
    cache_entry_kilobytes: int = Field(default=1024, ge=1)
    """Largest reply that is kept; larger ones are computed each time."""
    cache_redis: str = ""
    """Another Redis for them; default: that of the jobs."""
    session_megabytes: int = Field(default=1024, ge=1)
    """What the sessions that are kept ready may hold, over all models, beside the mapped files."""
    max_models: int = Field(default=16, ge=1)
    """Models that are kept loaded."""
    max_batch_pixels: int = Field(default=8_000_000, ge=64)
    """Pixels of one call's images together, after resizing."""
    max_value_megabytes: int = Field(default=1024, ge=1)
    """Values of layers that one call may ask for, in MiB, whether it takes all of them or not."""
    max_job_pixels: int = Field(default=(1 << 24) * 5 // 4, ge=64)
    """Pixels of one job's images together, after resizing."""
    max_job_cost: float = Field(default=1e17, gt=0)
    """Multiply-adds that one job may take, as estimated before it is queued."""
    max_collection_images: int = Field(default=100_000, ge=1)
    """Images that one collection may have."""
    max_image_bytes: int = Field(default=32 << 20, ge=1)
    """Largest file of an image of a collection."""
    indexes: Path | None = None
    """Folder of this server's own search indexes; default: the user's cache folder."""
    max_request_bytes: int = Field(default=64 << 20, ge=1 << 16)
    """Largest request message."""
    grace: float = Field(default=20.0, ge=0)
    """Seconds that calls in flight have to finish after SIGTERM."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """What the log holds; INFO has a line for every call."""

    @model_validator(mode="after")
    def _cache_has_a_place(self) -> Self:
        if self.cache_seconds and not (self.cache_redis or self.redis):
            raise ValueError("cache_seconds needs redis or cache_redis")
        return self

    @model_validator(mode="after")
    def _processes_know_their_port(self) -> Self:
        if self.processes > 1 and (self.listen.endswith(":0") or self.listen.startswith("unix:")):
            raise ValueError(f"processes = {self.processes} need a port to share: listen = {self.listen!r}")
        return self

    @field_validator("listen")
    @classmethod
    def _has_a_port(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        # gRPC itself would take port 99999 for 34463.
        if not (host and port.isdecimal() and int(port) < 1 << 16):
            raise ValueError(f"{listen!r} must be HOST:PORT with a port between 0 and 65535")
        return listen
