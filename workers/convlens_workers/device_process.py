"""The process that owns the device: it keeps networks loaded, and runs one job after the other.

Started by the supervisor, with a pipe, as `python -m convlens_workers.device_process`. It knows neither
Redis nor RQ, ignores the signals that are meant for the supervisor, and dies with it.
"""

from __future__ import annotations

import logging
import signal
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from multiprocessing.connection import Connection
from typing import Any, Final, TypeVar

import torch
from google.protobuf.message import Message
from torch import Tensor

from convlens import wire
from convlens.errors import (
    ConvLensError,
    FailedPrecondition,
    Internal,
    NotFound,
    ResourceExhausted,
    Unavailable,
    to_status,
)
from convlens.v1 import job_pb2
from convlens.v1.tensor_pb2 import TensorHeader
from convlens_models.manifest import Manifest
from convlens_models.repository import ModelRepository, default_root
from convlens_workers.checkpoint import Origin, asked, fingerprint, load_state, save_state
from convlens_workers.collections import CollectionFiles
from convlens_workers.devices import choose_device, inexact_operations
from convlens_workers.jobs import pictures
from convlens_workers.jobs.artifacts import ArtifactStore
from convlens_workers.jobs.techniques import SPECIFICATIONS
from convlens_workers.jobs.techniques.layers import style_warnings
from convlens_workers.messages import (
    Configure,
    Event,
    Failed,
    Finished,
    Ready,
    Saved,
    Start,
    Stop,
    Stopped,
    Waiting,
)
from convlens_workers.networks import Networks
from convlens_workers.parent_death import die_with
from convlens_workers.retry_proxy import RetryProxy
from convlens_workers.step_runner import StepRunner
from convlens_workers.techniques import begin
from convlens_workers.techniques.base import Host, Results, State, Task
from convlens_workers.techniques.parts.descent import warnings as warnings_of
from convlens_workers.telemetry.logs import configure

PAUSES: Final = (0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
"""Seconds between tries at an artifact store that is away."""
T = TypeVar("T")

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """The job was to be stopped while it waited for the artifact store."""


class DeviceProcess:
    """Runs the jobs that come over `pipe` on one device."""

    def __init__(self, pipe: Connection, config: Configure) -> None:
        self._pipe = pipe
        self._config = config
        self._store = ArtifactStore(config.artifacts)
        self._collections: Any = RetryProxy(CollectionFiles(config.artifacts), self._retrying)
        self._device = choose_device(config.device)
        self._networks = Networks(
            ModelRepository(config.models or default_root()), self._device, config.warm_models
        )
        self._style_warnings: list[str] = []
        self._host = Host(self._networks, config.victims, config.folders, config.artifacts)

    def serve(self) -> None:
        """Report the device, then run one job after the other until the pipe is closed."""
        self._send(Ready(str(self._device)))
        while True:
            message = self._pipe.recv()
            if isinstance(message, Start):
                self._send(self._run(message))

    def _run(self, start: Start) -> Finished | Failed | Stopped:
        try:
            results = self._results(start)
            return Stopped() if results is None else Finished(self._store_results(start.operation, results))
        except Interrupted:
            return Stopped()
        except ConvLensError as error:
            return _failed(error)
        except torch.AcceleratorError:
            raise  # The device's context is broken: only a new process can use it again.
        except (torch.OutOfMemoryError, MemoryError) as error:
            log.warning("out of memory: %s", error, extra={"operation": start.operation})
            self._networks.clear()  # The next job shall find all there is.
            text = f"{self._device} has too little memory for this job"
            return _failed(ResourceExhausted(text, reason="DEVICE_OUT_OF_MEMORY"))
        except Exception as error:
            incident = uuid.uuid4().hex[:12]
            log.exception("job failed", extra={"operation": start.operation, "incident": incident})
            return _failed(Internal(f"the technique failed ({type(error).__name__}); incident {incident}"))

    def _results(self, start: Start) -> Results | None:
        data = self._retrying(lambda: self._store.get(start.operation, "request", start.request))
        request = understood(data)
        technique = request.WhichOneof("technique") or ""
        self._networks.bind(start.models)
        network, manifest = self._networks.get(request.model)
        params, device = getattr(request, technique), self._device
        manifest = SPECIFICATIONS[technique].seen(params, manifest)
        self._style_warnings = style_warnings(manifest)
        images = decode_images(params, manifest, device, technique)
        task = Task(params, network, manifest, images, request.seed, device, self._collections, self._host)
        origin = Origin(asked(request), manifest.digest, fingerprint(device))
        state = self._retrying(lambda: load_state(self._store, start.operation, start.checkpoints, origin))
        if state is None and request.resume:
            raise unfit(request.resume)
        log.info("started", extra={"operation": start.operation, "resumed": state is not None})
        save = partial(self._save, start.operation, origin)
        keep = partial(self._keep, start.operation) if SPECIFICATIONS[technique].grows else None
        steps = begin(technique, task, state)  # The rules hold, on which the estimate builds.
        estimate = SPECIFICATIONS[technique].estimate(task.submission(technique))
        with inexact_operations() as inexact:
            runner = StepRunner(
                self._send,
                self._stop_requested,
                save,
                self._config.checkpoint_interval,
                lambda: not inexact,
                keep,
                request.save_every,
                estimate.until,
            )
            results = runner.run(steps)
        with suppress(NotFound):  # A version that is gone meanwhile has not changed what was computed.
            self._networks.bind(start.models)
        return results

    def _save(self, operation: str, origin: Origin, state: State) -> str | None:
        try:
            return save_state(self._store, operation, state, origin)
        except Unavailable as error:
            log.warning("no checkpoint: %s", error, extra={"operation": operation})
            return None

    def _keep(self, operation: str, name: str, picture: Tensor) -> None:
        header = self._store_tensor(operation, name, picture)
        self._send(Saved(header.SerializeToString(deterministic=True)))

    def _store_tensor(self, operation: str, name: str, value: Tensor) -> TensorHeader:
        array = value.detach().cpu().contiguous().numpy()
        header = wire.header(name, array)
        data = array.tobytes()
        header.sha256 = self._retrying(partial(self._store.put, operation, "artifacts", data))
        return header

    def _store_results(self, operation: str, results: Results) -> bytes:
        result = job_pb2.JobResult()
        for name, value in results.items():
            if isinstance(value, Message):
                getattr(result, name).CopyFrom(value)
                continue
            result.artifacts.append(self._store_tensor(operation, name, value))
        if result.HasField("descent"):
            result.warnings.extend([*warnings_of(result.descent), *self._style_warnings])
        return result.SerializeToString(deterministic=True)

    def _retrying(self, call: Callable[[], T]) -> T:
        """The value of `call` once the artifact store answers. Raises Interrupted on a stop meanwhile."""
        pauses = chain(PAUSES, repeat(PAUSES[-1]))
        while True:
            try:
                return call()
            except Unavailable as error:
                log.warning("%s; trying again", error)
            self._send(Waiting())
            if self._pipe.poll(next(pauses)) and self._stop_requested() is not None:
                raise Interrupted

    def _stop_requested(self) -> Stop | None:
        if not self._pipe.poll():
            return None
        message = self._pipe.recv()
        return message if isinstance(message, Stop) else None

    def _send(self, event: Event) -> None:
        self._pipe.send(event)


def understood(data: bytes) -> job_pb2.SubmitJobRequest:
    """The stored request. Raises FailedPrecondition where it has fields that are not known here.

    A newer server has filled in their defaults, or been asked for them: to run the job without them
    would give another result than was asked for.
    """
    request = job_pb2.SubmitJobRequest.FromString(data)
    request.DiscardUnknownFields()
    if request.ByteSize() != len(data):
        text = "the server that took this job is newer than the worker that got it; upgrade workers first"
        raise FailedPrecondition(text, reason="WORKER_TOO_OLD")
    return request


def unfit(resumed: str) -> FailedPrecondition:
    """The error of a job that was to go on from one whose checkpoint cannot be used here."""
    text = (
        f"the checkpoint of {resumed} does not fit: it is damaged, or was made by another model or code, "
        "or on another device or number of threads; a job with `base` begins anew"
    )
    return FailedPrecondition(text, reason="CHECKPOINT_UNFIT", field="resume")


def decode_images(
    params: Message, manifest: Manifest, device: torch.device, technique: str = ""
) -> dict[str, Tensor]:
    """Every picture in a technique's message, by path, as "styles[0].mask": (1, 3, H, W) in [0, 1]."""
    images = pictures.decode_images(params, manifest, technique)
    return {path: torch.tensor(pixels)[None].to(device) for path, pixels in images}


def _failed(error: ConvLensError) -> Failed:
    return Failed(to_status(error).SerializeToString(deterministic=True))


def main() -> None:
    """Serve the supervisor; arguments: descriptor of the pipe, its process id, level and format of logs."""
    die_with(int(sys.argv[2]))
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    configure(sys.argv[3], sys.argv[4])
    pipe = Connection(int(sys.argv[1]))
    try:
        DeviceProcess(pipe, pipe.recv()).serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # The supervisor has closed the pipe.


if __name__ == "__main__":
    main()
