"""A training that several devices of one machine share: torchrun starts a process for each.

The technique's own process only follows them. So it stays one that tells progress, is stopped and writes
checkpoints as any other, and that torchrun's processes cannot outlive.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from google.rpc.status_pb2 import Status

from convlens.errors import from_status
from convlens.v1 import model_pb2
from convlens_models.repository import ModelRepository
from convlens_workers import distributed_training_process
from convlens_workers.collections import CollectionFiles
from convlens_workers.networks import Networks
from convlens_workers.techniques.base import State, Step, Task
from convlens_workers.techniques.parts import ranks
from convlens_workers.techniques.parts.loop import Stage, optimise


@dataclass(frozen=True)
class TrainingSpec:
    """All that another process needs to take part in a task; it is handed over as a pickle.

    Attributes:
        stage: makes the training from the task; a class, which the pickle holds by its name.
        task: without its network, its collections and its host's networks, which are of this process; its
            images are on the CPU.
        root: folder of the model repository.
        state: to go on from.
    """

    stage: Callable[[Task[Any]], Stage]
    task: Task[Any]
    root: Path | None
    state: State | None

    @classmethod
    def of(cls, stage: Callable[[Task[Any]], Stage], task: Task[Any], state: State | None) -> TrainingSpec:
        """The spec of the training that `stage` makes from `task`, from `state` on."""
        absent: Any = None
        images = {name: image.cpu() for name, image in task.images.items()}
        host = replace(task.host, networks=absent)
        sent = replace(task, network=absent, images=images, collections=absent, host=host)
        return cls(stage, sent, task.host.networks.repository.root, state)

    @property
    def device(self) -> str:
        """The type of the devices that the processes are to take, "cpu" or "cuda"."""
        return self.task.device.type

    def steps(self, device: torch.device) -> Iterator[Step]:
        """Take part in the training on `device`; the steps of the first process come on the CPU."""
        for step in optimise([self.stage(self._here(device))], self.state, self.task.seed, device):
            yield _on_cpu(step) if ranks.rank() == 0 else step

    def _here(self, device: torch.device) -> Task[Any]:
        """The task in this process."""
        networks, manifest = Networks(ModelRepository(self.root), device, limit=1), self.task.manifest
        network, _ = networks.get(model_pb2.ModelRef(name=manifest.name, version=manifest.version))
        images = {name: image.to(device) for name, image in self.task.images.items()}
        files = CollectionFiles(self.task.host.artifacts or "memory:///")
        host = replace(self.task.host, networks=networks)
        return replace(self.task, network=network, images=images, device=device, collections=files, host=host)


def processes(batch: int, device: torch.device) -> int:
    """How many processes shall share a batch: one for each GPU, but each has as much to do as the others.

    A worker that was told to take another GPU than the first has that one alone.
    """
    alone = device.type != "cuda" or device.index not in (None, 0)
    devices = 1 if alone else torch.cuda.device_count()
    return max(number for number in range(1, max(1, devices) + 1) if batch % number == 0)


def follow(
    stage: Callable[[Task[Any]], Stage], task: Task[Any], state: State | None, count: int
) -> Generator[Step, None, State]:
    """The steps of `stage` that `count` processes take together; returns the last state, on the CPU.

    Raises:
        ConvLensError: what the technique raised there.
        RuntimeError: a process ended otherwise; what it wrote to stderr says why.
    """
    with tempfile.TemporaryDirectory(prefix="convlens-training-") as folder:
        spec = Path(folder) / "spec"
        spec.write_bytes(pickle.dumps(TrainingSpec.of(stage, task, state)))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += ["-m", distributed_training_process.__name__, str(spec)]
        torchrun = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert torchrun.stdout is not None
        try:
            while True:
                try:
                    report = pickle.load(torchrun.stdout)
                except EOFError:
                    break
                if isinstance(report, bytes):
                    raise from_status(Status.FromString(report))
                step, inexact = report
                for text in inexact:
                    warnings.warn(text, stacklevel=1)
                state = step.state
                yield step
            if (code := torchrun.wait()) != 0 or state is None:
                raise RuntimeError(f"the training's processes ended with exit code {code}")
            return state
        finally:
            torchrun.kill()  # Its own processes die with it.
            torchrun.stdout.close()
            torchrun.wait()


def _on_cpu(step: Step) -> Step:
    losses = {name: value.cpu() for name, value in step.losses.items()}
    state = {name: value.cpu() for name, value in step.state.items()}
    return replace(step, losses=losses, image=step.image.cpu(), state=state)
