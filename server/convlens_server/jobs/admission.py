"""Which jobs are too big to be queued."""

from __future__ import annotations

from dataclasses import dataclass

from convlens.errors import InvalidArgument
from convlens_workers.jobs.techniques import SPECIFICATIONS
from convlens_workers.jobs.techniques.base import Submission


@dataclass(frozen=True)
class Limits:
    """What one job may have: pixels of its pictures together, and multiply-adds."""

    pixels: int
    cost: float

    def admit(self, job: Submission) -> None:
        """Raise InvalidArgument when a job is beyond a limit."""
        if job.pixels > self.pixels:
            raise InvalidArgument.of(
                job.technique, f"{job.pixels} pixels", f"at most {self.pixels} pixels together"
            )
        cost = SPECIFICATIONS[job.technique].estimate(job).cost
        if cost > self.cost:
            allowed = f"at most {self.cost:.3g}: fewer pixels or steps"
            raise InvalidArgument.of(job.technique, f"{cost:.3g} multiply-adds", allowed)
