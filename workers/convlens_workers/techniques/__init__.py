"""The long techniques: `NAME.NAME` for each arm of SubmitJobRequest.technique."""

from __future__ import annotations

from collections.abc import Generator
from importlib import import_module
from typing import Any, Final

from convlens_workers.jobs.techniques import NAMES, SPECIFICATIONS
from convlens_workers.techniques.base import Results, State, Step, Task, Technique

TECHNIQUES: Final[dict[str, Technique]] = {
    name: getattr(import_module(f"{__name__}.{name}"), name) for name in NAMES
}


def begin(technique: str, task: Task[Any], state: State | None = None) -> Generator[Step, None, Results]:
    """The steps of a technique, once its rules have been found to hold.

    Raises:
        InvalidArgument, FailedPrecondition: as the server refuses such a job when it is submitted.
    """
    SPECIFICATIONS[technique].check(task.submission(technique))
    return TECHNIQUES[technique](task, state)
