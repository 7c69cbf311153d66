"""The device process over its pipe, with techniques that go wrong."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from google.rpc.status_pb2 import Status
from support.job_plane import dream
from support.tiny_model import NAME
from torch import Tensor

from convlens.errors import ConvLensError, DataLoss, FailedPrecondition, ResourceExhausted, from_status
from convlens.v1 import job_pb2
from convlens_models.repository import ModelRepository
from convlens_workers import device_process, techniques
from convlens_workers.jobs import ArtifactStore
from convlens_workers.messages import (
    Configure,
    Failed,
    Finished,
    Progress,
    Ready,
    Start,
    Stop,
    Stopped,
    Waiting,
)
from convlens_workers.techniques.base import Results, Step, Task

ID = "0" * 32
Technique = Callable[[Task, object], Generator[Step, None, Results]]


class DeviceProcessInThread:
    """A device process whose techniques can be changed."""

    def __init__(self, ours: Connection, artifacts: Path, patch: pytest.MonkeyPatch) -> None:
        self._ours, self._patch = ours, patch
        self.store = ArtifactStore(artifacts.as_uri())

    def start(self, technique: Technique) -> None:
        self.patch("deepdream", technique)
        digest = self.store.put(ID, "request", dream(1).SerializeToString(deterministic=True))
        self.tell(Start(ID, digest, ()))

    def patch(self, name: str, technique: Technique) -> None:
        self._patch.setitem(techniques.TECHNIQUES, name, technique)

    def tell(self, message: Start | Stop) -> None:
        self._ours.send(message)

    def until(self, *kinds: type) -> list[object]:
        """All events to the first of one of these kinds."""
        events = []
        while not (events and isinstance(events[-1], kinds)):
            assert self._ours.poll(20), events
            events.append(self._ours.recv())
        return events


@pytest.fixture
def running(
    tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DeviceProcessInThread]:
    ours, theirs = Pipe()
    config = Configure(tiny_models, (tmp_path / "store").as_uri(), "cpu", 100.0, 1)
    thread = threading.Thread(target=serve, args=[device_process.DeviceProcess(theirs, config)])
    thread.start()
    process = DeviceProcessInThread(ours, tmp_path / "store", monkeypatch)
    assert process.until(Ready) == [Ready("cpu")]
    yield process
    ours.close()
    thread.join(10)
    theirs.close()


def serve(served: device_process.DeviceProcess) -> None:
    try:
        served.serve()
    except EOFError:
        return


def step(number: int = 1) -> Step:
    return Step(number, 1, {}, torch.zeros(1, 3, 8, 8), {"step": torch.tensor(number)})


def good(task: Task, state: object) -> Generator[Step, None, dict[str, Tensor]]:
    yield step()
    return {"image": torch.ones(3)}


def out_of_memory(task: Task, state: object) -> Generator[Step, None, dict[str, Tensor]]:
    yield step()
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def inexact(task: Task, state: object) -> Generator[Step, None, dict[str, Tensor]]:
    warnings.warn("upsample_x does not have a deterministic implementation, but you set ...", stacklevel=1)
    yield step()
    return {"image": torch.ones(3)}


@pytest.mark.parametrize("inner", [False, True])
def test_a_job_of_a_newer_server_is_refused(running: DeviceProcessInThread, inner: bool) -> None:
    known = dream(1)
    field = b"\xf8\x7f\x01"  # Number 2047, which there is not: 1.
    if inner:
        known.deepdream.MergeFromString(field)
    data = known.SerializeToString(deterministic=True) + (b"" if inner else field)
    running.tell(Start(ID, running.store.put(ID, "request", data), ()))
    (*_, failed) = running.until(Finished, Failed)
    assert isinstance(failed, Failed)
    error = from_status(Status.FromString(failed.status))
    assert (type(error), error.reason) == (FailedPrecondition, "WORKER_TOO_OLD")


def bound(models: Path) -> dict[str, str]:
    """To the small network, and the one that every repository has."""
    manifests = (ModelRepository(models).get(name).manifest for name in (NAME, "patterns"))
    return {f"{manifest.name}/{manifest.version}": manifest.digest for manifest in manifests}


def ended(running: DeviceProcessInThread, bound: dict[str, str]) -> Finished | ConvLensError:
    """How a job that is bound to those networks ends."""
    request = running.store.put(ID, "request", dream(1).SerializeToString(deterministic=True))
    running.tell(Start(ID, request, (), bound))
    (*_, end) = running.until(Finished, Failed)
    assert isinstance(end, Finished | Failed)
    return from_status(Status.FromString(end.status)) if isinstance(end, Failed) else end


@pytest.mark.parametrize("changed", [f"{NAME}/1", "patterns/1"])
def test_a_job_is_done_by_the_networks_that_the_server_saw_or_not_at_all(
    running: DeviceProcessInThread, tiny_models: Path, changed: str
) -> None:
    """Its own, and others that it names."""
    known = bound(tiny_models)
    running.patch("deepdream", good)
    assert isinstance(ended(running, known), Finished)
    error = ended(running, known | {changed: "f" * 64})
    assert isinstance(error, FailedPrecondition)
    assert (error.reason, error.field) == ("MODEL_CHANGED", "model")
    assert "f" * 64 in str(error)
    assert known[changed] in str(error)


def test_weights_that_are_overwritten_in_place_are_noticed(
    running: DeviceProcessInThread, tiny_models: Path
) -> None:
    """Before a job, though they are loaded, and during one; the right ones serve again."""
    weights = ModelRepository(tiny_models).get(NAME).file("weights.safetensors")
    right = weights.read_bytes()

    def overwriting(task: Task, state: object) -> Generator[Step, None, Results]:
        yield step()
        weights.write_bytes(right[:-4] + bytes(4))
        return {"image": torch.ones(3)}

    known = bound(tiny_models)
    try:
        running.patch("deepdream", overwriting)
        assert isinstance(ended(running, known), DataLoss)
        running.patch("deepdream", good)
        assert isinstance(ended(running, known), DataLoss)
        assert isinstance(ended(running, {}), DataLoss)
    finally:
        weights.write_bytes(right)
    assert isinstance(ended(running, known), Finished)


def test_out_of_memory_is_a_typed_error_and_the_process_still_good(running: DeviceProcessInThread) -> None:
    running.start(out_of_memory)
    failed = running.until(Failed)[-1]
    error = from_status(Status.FromString(failed.status))
    assert isinstance(error, ResourceExhausted)
    assert error.reason == "DEVICE_OUT_OF_MEMORY"
    running.start(good)
    assert isinstance(running.until(Finished, Failed)[-1], Finished)


@pytest.mark.parametrize(("technique", "exact"), [(good, True), (inexact, False)])
def test_what_may_give_other_bytes_is_said(
    running: DeviceProcessInThread, technique: Technique, exact: bool
) -> None:
    running.start(technique)
    progress = [event for event in running.until(Finished) if isinstance(event, Progress)]
    assert {event.bit_exact for event in progress} == {exact}


def descending(task: Task, state: object) -> Generator[Step, None, Results]:
    yield step()
    found = job_pb2.Descent(first_loss=0.25, last_loss=0.24, expected_fall=0.5)
    return {"image": torch.ones(3), "descent": found}


def test_a_loss_that_has_not_fallen_is_said_with_the_result(running: DeviceProcessInThread) -> None:
    running.start(descending)
    finished = running.until(Finished, Failed)[-1]
    assert isinstance(finished, Finished)
    result = job_pb2.JobResult.FromString(finished.result)
    assert result.descent.first_loss == 0.25
    (warning,) = result.warnings
    assert "from 0.25 to 0.24" in warning


def without_store(place: Path) -> Technique:
    """Good, but meanwhile the artifact store breaks."""

    def technique(task: Task, state: object) -> Generator[Step, None, dict[str, Tensor]]:
        yield step()
        place.mkdir(parents=True, exist_ok=True)
        (place / "artifacts").touch()
        return {"image": torch.ones(3)}

    return technique


def test_a_result_waits_for_the_artifact_store(running: DeviceProcessInThread, tmp_path: Path) -> None:
    place = tmp_path / "store" / "operations" / ID
    running.start(without_store(place))
    running.until(Waiting)
    (place / "artifacts").unlink()
    finished = running.until(Finished, Failed)[-1]
    assert isinstance(finished, Finished)
    (header,) = job_pb2.JobResult.FromString(finished.result).artifacts
    assert running.store.get(ID, "artifacts", header.sha256) == torch.ones(3).numpy().tobytes()


def test_a_stop_ends_the_wait_for_the_artifact_store(running: DeviceProcessInThread, tmp_path: Path) -> None:
    running.start(without_store(tmp_path / "store" / "operations" / ID))
    running.until(Waiting)
    running.tell(Stop(save=True))
    assert isinstance(running.until(Stopped, Finished, Failed)[-1], Stopped)
