"""Runs a technique step by step; nothing else knows of progress, previews, stops and checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from convlens import wire
from convlens.errors import InvalidArgument
from convlens_workers.messages import Checkpointed, Progress, Stop
from convlens_workers.techniques.base import Results, State, Step
from convlens_workers.techniques.parts.pixels import resize

PROGRESS_INTERVAL: Final = 0.5
PREVIEW_INTERVAL: Final = 1.0
PREVIEW_SIDE: Final = 256
MOST_PICTURES: Final = 64
"""That a job may ask for on its way."""
SO_FAR: Final = "so_far"
"""Name of the last picture of a job that came to no end."""

log = logging.getLogger(__name__)


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
        keep: stores a picture of a job under a name, as an artifact; None where the technique makes no
            picture step by step, so that another job cannot go on from this one either.
        save_every: steps from one such picture to the next; 0 for none.
        until: the cost of all steps up to one, in any unit; by default they cost the same.
    """

    send: Callable[[Progress | Checkpointed], None]
    stop_requested: Callable[[], Stop | None]
    save: Callable[[State], str | None]
    checkpoint_interval: float
    bit_exact: Callable[[], bool] = lambda: True
    keep: Callable[[str, Tensor], None] | None = None
    save_every: int = 0
    until: Callable[[int], float] = float

    def __post_init__(self) -> None:
        self._pace: Pace | None = None
        self._due_progress = Every(PROGRESS_INTERVAL)
        self._due_preview = Every(PREVIEW_INTERVAL)
        self._due_checkpoint = Every(self.checkpoint_interval, later=True)

    def run(self, steps: Generator[Step, None, Results]) -> Results | None:
        """The technique's results, or None when it was stopped.

        Raises:
            InvalidArgument: more than `MOST_PICTURES` are to be kept.
        """
        last = None
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                if last is not None:
                    self._report(last, preview=True)
                    if self.keep:
                        self._checkpoint(last)  # For more steps.
                results: Results = end.value
                return results
            except torch.AcceleratorError:
                raise  # Nothing can be read from the device any more.
            except Exception:
                self._stop(last, Stop(save=True, show=True))
                raise
            if last is None:
                self._check_pictures(step)
                self._pace = Pace(self.until, step.number)
            last = step
            if (stop := self.stop_requested()) is not None:
                steps.close()
                self._stop(step, stop)
                return None
            if self.keep and self.save_every and step.number % self.save_every == 0:
                self.keep(f"step.{step.number:06}", step.image)
            if self._due_progress():
                self._report(step, preview=self._due_preview())
            if self._due_checkpoint():
                self._checkpoint(step)

    def _check_pictures(self, first: Step) -> None:
        count = (first.total - first.number + 1) // self.save_every if self.save_every else 0
        if count > MOST_PICTURES:
            least = -(-first.total // MOST_PICTURES)
            allowed = f"at least {least}: there are {first.total} steps, and at most {MOST_PICTURES} pictures"
            raise InvalidArgument.of("save_every", self.save_every, allowed)

    def _stop(self, last: Step | None, stop: Stop) -> None:
        """Store what is wanted of the last step; whatever goes wrong with it is only logged."""
        if last is None:
            return
        try:
            if stop.show and self.keep:
                self.keep(SO_FAR, last.image)
            if stop.save:
                self._checkpoint(last)
        except Exception:
            log.exception("the last step is lost")

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
