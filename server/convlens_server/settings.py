"""The server's settings, read once from the environment (prefix CONVLENS_)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from convlens_server.cpus import cpus
from convlens_server.edge.settings import EdgeSettings
from convlens_server.identity.settings import IdentitySettings
from convlens_workers.jobs.settings import JobSettings, redis_url


class ServerSettings(JobSettings, IdentitySettings, EdgeSettings):
    """Where the server listens, what it serves, and how much of the machine it takes.

    With an empty `redis` the server answers quick calls alone: jobs and collections are FAILED_PRECONDITION.
    """

    listen: str = "127.0.0.1:8500"
    """Address and port, HOST:PORT, on which the server takes calls; port 0 takes a free one."""
    models: Path | None = None
    """Folder of the model repository, which is laid over the embedded one; by default a folder in the user's
    data directory."""

    processes: int = Field(default=1, ge=1, le=256)
    """Number of server processes that share the port, each with its share of `threads` and `lanes`. Process n
    tells its metrics and its health on a port n further; every other limit holds for each process alone. More
    than one needs a named port in `listen`."""
    share_port: bool = False
    """Whether other processes may listen on the same port, with connections spread over them by the
    kernel."""
    threads: int = Field(default_factory=cpus, ge=1, le=1024)
    """Threads that all passes of networks may use together; a call that is alone has them all."""
    lanes: int = Field(default_factory=cpus, ge=1, le=1024)
    """Worker threads of the server, which is the number of calls that compute at the same time; with a GPU at
    least 32 unless it is set, so that batches form."""
    batching: Literal["auto", "on", "off"] = "auto"
    """Whether concurrent calls become one pass, for models whose manifest says how; "auto" means on a GPU
    alone."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Device on which ONNX Runtime computes: "auto" is CUDA where it works and else the CPU, "cuda" and
    "cuda:1" demand the first and the second GPU."""
    device_megabytes: int = Field(default=0, ge=0)
    """Memory of the GPU, in MiB, that the values of layers may take; 0 sets no limit."""
    installed_models: Literal["auto", "on", "off"] = "auto"
    """Whether a start puts `efficientnet_lite0` into a model repository that lacks it, where the package of
    its weights is installed (extra `imagenet`); "auto" means into the folder in the user's data directory
    alone, not into one that is named."""
    warm: tuple[str, ...] = ("",)
    """Names of the models that are loaded, and run once forward and backward, before the server is ready; ""
    is the default model."""
    health_listen: str = Field(default="", pattern=r"^(.+:\d{1,5})?$")
    """Address and port of a health service in plain text for probes, beside the one on `listen`; empty for
    none."""
    max_waiting: int = Field(default=256, ge=0)
    """Number of calls that may wait for a worker thread; more are refused with RESOURCE_EXHAUSTED, reason
    QUEUE_FULL. A caller leaves as many places to others as it has, as with all limits of this kind."""
    max_waiting_megabytes: int = Field(default=256, ge=1)
    """MiB that the requests of all calls that wait or compute may hold together; a call that would wait
    beyond that is refused with RESOURCE_EXHAUSTED, reason QUEUE_BYTES."""
    max_wait: float = Field(default=5.0, gt=0)
    """Seconds that a call may be expected to wait for others, or five times as long as it takes itself, if
    that is longer; one that would wait longer is refused with RESOURCE_EXHAUSTED, reason QUEUE_LONG."""
    tenant_weights: dict[str, float] = Field(default_factory=dict)
    """Shares of tenants in the worker threads while several have work for them, as a JSON object of numbers
    above 0; a tenant that is not named has 1."""
    max_call_cost: float = Field(default=5e13, gt=0)
    """Number of multiply-adds that one quick call may take, as estimated before it begins; a larger one is
    refused with INVALID_ARGUMENT, which names the field to lower."""
    max_decoded_pixels: int = Field(default=500_000_000, ge=64)
    """Number of pixels that the picture files of one quick call may have together, before they are
    resized."""
    stream_ahead_megabytes: float = Field(default=4.0, ge=0)
    """MiB of a streamed reply below which its next part is computed before its reader has taken what there
    is; 0 computes each part when the one before has been taken."""
    max_streams: int = Field(default=256, ge=1)
    """Number of replies that may be streamed at the same time; more are refused with RESOURCE_EXHAUSTED,
    reason STREAMS."""
    max_long_calls: int = Field(default=1024, ge=1)
    """Number of calls that may follow jobs, send artifacts or receive the images of a collection at the same
    time; more are refused with RESOURCE_EXHAUSTED, reason LONG_CALLS."""
    cache_seconds: float = Field(default=0.0, ge=0, le=30 * 86400)
    """Seconds for which replies to quick calls that follow from their request alone are kept in Redis; 0
    keeps none."""
    cache_megabytes: int = Field(default=64, ge=1)
    """MiB that the kept replies of all servers may take in Redis together; the oldest go first."""
    cache_entry_kilobytes: int = Field(default=1024, ge=1)
    """Size in KiB of the largest reply that is kept; a larger one is computed each time."""
    cache_redis: str = Field(default="", repr=False)
    """URL of another Redis that keeps the replies; by default the one of the jobs, `redis`."""
    session_megabytes: int = Field(default=1024, ge=1)
    """MiB that the ONNX Runtime sessions that are kept ready may hold, over all models, beside the mapped
    weights."""
    max_models: int = Field(default=16, ge=1)
    """Number of models that are kept loaded; the one that was not used for the longest time goes first."""
    max_batch_pixels: int = Field(default=8_000_000, ge=64)
    """Number of pixels that the images of one call may have together, after resizing."""
    max_value_megabytes: int = Field(default=1024, ge=1)
    """MiB that the values of the layers of one call may take, whether all of them are sent or not."""
    max_job_pixels: int = Field(default=(1 << 24) * 5 // 4, ge=64)
    """Number of pixels that the images of one job may have together, after resizing."""
    max_job_cost: float = Field(default=1e17, gt=0)
    """Number of multiply-adds that one job may take, as estimated before it is queued."""
    max_collection_images: int = Field(default=100_000, ge=1)
    """Number of images that one collection may have."""
    max_image_bytes: int = Field(default=32 << 20, ge=1)
    """Size in bytes of the largest image file that a collection takes."""
    max_model_megabytes: int = Field(default=2048, ge=0)
    """MiB that the files of a network may have together that an administrator sends; 0 takes none."""
    import_megabytes: int = Field(default=16 << 10, ge=512)
    """MiB that the process may take that proves such a network, on Linux."""
    import_seconds: float = Field(default=900.0, gt=0)
    """Seconds that it may take."""
    indexes: Path | None = None
    """Folder of this server's own search indexes, which can be made again; by default one in the user's cache
    directory."""
    grace: float = Field(default=20.0, ge=0)
    """Seconds that calls in flight have to finish after SIGTERM."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that the log holds; INFO has a line for every call."""

    @model_validator(mode="after")
    def _cache_has_a_place(self) -> Self:
        if self.cache_seconds and not (self.cache_redis or self.redis):
            raise ValueError("CONVLENS_CACHE_SECONDS needs CONVLENS_REDIS or CONVLENS_CACHE_REDIS")
        return self

    @field_validator("tenant_weights")
    @classmethod
    def _weights_are_shares(cls, weights: dict[str, float]) -> dict[str, float]:
        if any(not 0 < weight < math.inf for weight in weights.values()):
            raise ValueError(f"{weights}: weights must be numbers above 0")
        return weights

    @model_validator(mode="after")
    def _processes_know_their_port(self) -> Self:
        if self.processes > 1 and (self.listen.endswith(":0") or self.listen.startswith("unix:")):
            need = f"CONVLENS_PROCESSES = {self.processes} need a port to share"
            raise ValueError(f"{need}: CONVLENS_LISTEN = {self.listen!r}")
        return self

    @field_validator("listen")
    @classmethod
    def _has_a_port(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        # gRPC itself would take port 99999 for 34463.
        if not (host and port.isdecimal() and int(port) < 1 << 16):
            raise ValueError("must be HOST:PORT with a port between 0 and 65535")
        return listen

    @field_validator("cache_redis")
    @classmethod
    def _has_a_redis(cls, url: str) -> str:
        return redis_url(url)
