"""Runs a technique step by step; nothing else knows of progress, previews, stops and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from convlens import wire
from convlens_workers.messages import Checkpointed, Progress, Stop
from convlens_workers.techniques.base import Results, State, Step
from convlens_workers.techniques.parts.pixels import resize

PROGRESS_INTERVAL: Final = 0.5
PREVIEW_INTERVAL: Final = 1.0
PREVIEW_SIDE: Final = 256


class Every:
    """True at most once in `seconds`; the first time at once unless `later`."""

    def __init__(self, seconds: float, *, later: bool = False) -> None:
        self._seconds = seconds
        self._due = time.monotonic() + (seconds if later else 0)

    def __call__(self) -> bool:
        """Whether `seconds` have gone by since the last True."""
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + self._seconds
        return True


class Pace:
    """How fast steps have been since the first one, which is slower: things are made ready in it."""

    def __init__(self, until: Callable[[int], float], first: int) -> None:
        self._until = until
        self._begun, self._before = time.monotonic(), until(first)

    def remaining(self, step: Step) -> float | None:
        """Seconds until the last step, each as long as its cost is high; None before there is a pace."""
        here = self._until(step.number)
        if here <= self._before:
            return None
        left = max(0.0, self._until(step.total) - here)
        return (time.monotonic() - self._begun) * left / (here - self._before)


@dataclass
class StepRunner:
    """Draws the steps of a technique, and reports them to the supervisor.

    Attributes:
        send: takes the events for the supervisor.
        stop_requested: the stop that somebody has asked for, if any; called after every step.
        save: stores a state and gives its SHA-256, or None where that failed: the job goes on all the same.
        checkpoint_interval: seconds between checkpoints.
        bit_exact: whether all that has run so far gives the same bytes each time.
        until: the cost of all steps up to one, in any unit; by default they cost the same.
    """

    send: Callable[[Progress | Checkpointed], None]
    stop_requested: Callable[[], Stop | None]
    save: Callable[[State], str | None]
    checkpoint_interval: float
    bit_exact: Callable[[], bool] = lambda: True
    until: Callable[[int], float] = float

    def __post_init__(self) -> None:
        self._pace: Pace | None = None
        self._due_progress = Every(PROGRESS_INTERVAL)
        self._due_preview = Every(PREVIEW_INTERVAL)
        self._due_checkpoint = Every(self.checkpoint_interval, later=True)

    def run(self, steps: Generator[Step, None, Results]) -> Results | None:
        """The technique's results, or None when it was stopped."""
        last = None
        while True:
            try:
                step = last = next(steps)
            except StopIteration as end:
                if last is not None:
                    self._report(last, preview=True)
                results: Results = end.value
                return results
            self._pace = self._pace or Pace(self.until, step.number)
            if (stop := self.stop_requested()) is not None:
                steps.close()
                if stop.save:
                    self._checkpoint(step)
                return None
            if self._due_progress():
                self._report(step, preview=self._due_preview())
            if self._due_checkpoint():
                self._checkpoint(step)

    def _report(self, step: Step, *, preview: bool) -> None:
        losses = {name: float(value) for name, value in step.losses.items()}
        picture = thumbnail(step.image) if preview else b""
        remaining = self._pace.remaining(step) if self._pace else None
        self.send(Progress(step.number, step.total, losses, picture, self.bit_exact(), remaining))

    def _checkpoint(self, step: Step) -> None:
        began = time.perf_counter()
        if (digest := self.save(step.state)) is not None:
            self.send(Checkpointed(digest, time.perf_counter() - began))


def thumbnail(image: Tensor) -> bytes:
    """JPEG of (1, 3, H, W) in [0, 1], at most 256 px a side."""
    height, width = image.shape[2:]
    ratio = min(1.0, PREVIEW_SIDE / max(height, width))
    with torch.no_grad():
        small = resize(image, (max(1, round(height * ratio)), max(1, round(width * ratio))))
    return wire.encode_image(small[0].float().cpu().numpy(), "JPEG", quality=80)
