"""One of the processes that train a style network together; torchrun starts it.

    python -m torch.distributed.run --standalone --nproc-per-node=4 \\
        -m convlens_workers.distributed_training_process SPEC

It gets a path to pickled `TrainingSpec`. The first process writes each step to stdout.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import torch
import torch.distributed as dist

from convlens.errors import ConvLensError, to_status
from convlens_workers.device_process import choose_device, die_with, inexact_operations
from convlens_workers.techniques.base import Step
from convlens_workers.techniques.parts.distributed_training import Failure, TrainingSpec, TrainingStep
from convlens_workers.techniques.parts.loop import optimise
from convlens_workers.techniques.train_style import Training


def main() -> None:
    """Train to the end."""
    die_with(os.getppid())
    told = _stdout()
    orders: TrainingSpec = pickle.loads(Path(sys.argv[1]).read_bytes())
    local = f"cuda:{os.environ['LOCAL_RANK']}" if orders.device == "cuda" else orders.device
    device = choose_device(local)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL takes the current one.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        task = orders.task(device)
        with inexact_operations() as inexact:
            for step in optimise([Training(task)], orders.state, task.seed, device):
                _tell(told, lambda: TrainingStep(_on_cpu(step), tuple(inexact)))  # noqa: B023 (called at once)
    except ConvLensError as error:
        failure = Failure(to_status(error).SerializeToString())
        _tell(told, lambda: failure)
    finally:
        dist.destroy_process_group()


def _stdout() -> BinaryIO:
    """Standard output, for steps alone: what others print goes to stderr from now on."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return told


def _tell(told: BinaryIO, make: Callable[[], TrainingStep | Failure]) -> None:
    """Only the first process does."""
    if dist.get_rank() == 0:
        pickle.dump(make(), told)
        told.flush()


def _on_cpu(step: Step) -> Step:
    losses = {name: value.cpu() for name, value in step.losses.items()}
    state = {name: value.cpu() for name, value in step.state.items()}
    return replace(step, losses=losses, image=step.image.cpu(), state=state)


if __name__ == "__main__":
    main()
