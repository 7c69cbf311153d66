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
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from torch import Tensor

from convlens.errors import from_status
from convlens.v1 import model_pb2
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.networks import Networks
from convlens_workers.techniques.base import Host, State, Step, Task

MODULE: Final = "convlens_workers.distributed_training_process"


@dataclass(frozen=True)
class TrainingStep:
    """A step, and what PyTorch said of operations that may give other bytes each time."""

    step: Step
    inexact: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """Instead of a step: what went wrong, a serialised google.rpc.Status."""

    status: bytes


@dataclass(frozen=True)
class TrainingSpec:
    """All that another process needs to take part in a task.

    Attributes:
        kind: type of the task's parameters, which are in `params`.
        root: folder of the model repository.
        artifacts: URL of the artifact store.
        state: to go on from.
    """

    kind: type[Message]
    params: bytes
    model: bytes
    root: Path | None
    artifacts: str
    folders: Mapping[str, Path]
    images: Mapping[str, Tensor]
    seed: int
    device: str
    state: State | None

    @classmethod
    def of(cls, task: Task[Any], state: State | None) -> TrainingSpec:
        """Those of `task`."""
        model = model_pb2.ModelRef(name=task.manifest.name, version=task.manifest.version)
        images = {name: image.cpu() for name, image in task.images.items()}
        host = task.host
        return cls(
            type(task.params),
            task.params.SerializeToString(),
            model.SerializeToString(),
            host.networks.repository.root,
            host.artifacts,
            dict(host.folders),
            images,
            task.seed,
            task.device.type,
            state,
        )

    def task(self, device: torch.device) -> Task[Any]:
        """The task again, on `device`."""
        networks = Networks(ModelRepository(self.root), device, limit=1)
        network, manifest = networks.get(model_pb2.ModelRef.FromString(self.model))
        return Task(
            self.kind.FromString(self.params),
            network,
            manifest,
            {name: image.to(device) for name, image in self.images.items()},
            self.seed,
            device,
            CollectionFiles(self.artifacts or "memory:///"),
            Host(networks, folders=self.folders, artifacts=self.artifacts),
        )


def processes(batch: int, device: torch.device) -> int:
    """How many shall share a batch: as many as there are GPUs, but each has as much to do as the others.

    A worker that was told to take another GPU than the first has that one alone.
    """
    alone = device.type != "cuda" or device.index not in (None, 0)
    devices = 1 if alone else torch.cuda.device_count()
    return max(number for number in range(1, max(1, devices) + 1) if batch % number == 0)


def follow(task: Task[Any], state: State | None, count: int) -> Generator[Step, None, State]:
    """The steps that `count` processes take together; returns the last state, on the CPU.

    Raises:
        ConvLensError: what the technique raised there.
        RuntimeError: a process ended otherwise; what it wrote to stderr says why.
    """
    with tempfile.TemporaryDirectory(prefix="convlens-crew-") as folder:
        orders = Path(folder) / "orders"
        orders.write_bytes(pickle.dumps(TrainingSpec.of(task, state)))
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={count}",
        ]
        crew = subprocess.Popen([*torchrun, "-m", MODULE, str(orders)], stdout=subprocess.PIPE)
        assert crew.stdout is not None
        try:
            while True:
                try:
                    said = pickle.load(crew.stdout)
                except EOFError:
                    break
                if isinstance(said, Failure):
                    raise from_status(Status.FromString(said.status))
                for text in said.inexact:
                    warnings.warn(text, stacklevel=1)
                state = said.step.state
                yield said.step
            if (code := crew.wait()) != 0 or state is None:
                raise RuntimeError(f"the training's processes ended with exit code {code}")
            return state
        finally:
            crew.kill()  # Its own processes die with it.
            crew.stdout.close()
            crew.wait()
