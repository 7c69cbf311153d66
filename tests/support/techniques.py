"""Techniques without a worker: run in this process, on one thread."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import torch

from convlens_workers.techniques.base import Results, Step


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
