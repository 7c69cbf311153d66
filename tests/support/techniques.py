"""Techniques without a worker: run in this process, on one thread."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from support.collections import picture
from support.long_cases import PICTURES, Case
from support.tiny_model import NAME

from convlens.v1 import model_pb2
from convlens_models.repository import ModelRepository
from convlens_workers.collections import CollectionFiles
from convlens_workers.networks import Networks
from convlens_workers.techniques.base import Host, Results, Step, Task


def run(technique: Generator[Step, None, Results]) -> tuple[list[Step], Results]:
    """All its steps, and what it ends with."""
    steps: list[Step] = []
    return steps, finished(technique, steps.append)


def finished(
    technique: Generator[Step, None, Results], see: Callable[[Step], object] = lambda step: None
) -> Results:
    """What it ends with; steps are seen, not kept."""
    while True:
        try:
            see(next(technique))
        except StopIteration as end:
            return end.value


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, whose sums are always in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make_task(case: Case, models: Path, seed: int = 0) -> Task[Any]:
    """The task of a case, on the small network and random pictures."""
    rng = torch.Generator().manual_seed(1)
    images = {name: torch.rand(1, 3, *size, generator=rng) for name, size in case.images.items()}
    files = CollectionFiles("memory:///")
    for number in range(3):
        files.put_image("c", picture(number))
    files.put_shard("c", PICTURES)
    cpu, params = torch.device("cpu"), case.params
    host = Host(Networks(ModelRepository(models), cpu, limit=1))
    network, manifest = host.networks.get(model_pb2.ModelRef(name=NAME))
    return Task(params, network, manifest, images, seed, cpu, files, host)
