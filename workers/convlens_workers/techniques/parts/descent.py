"""How far a minimisation has come, and whether that is far enough to trust its result."""

from __future__ import annotations

from google.protobuf.message import Message

from convlens.v1 import job_pb2
from convlens_workers.techniques.base import State
from convlens_workers.techniques.parts.loop import FIRST_LOSS, LAST_LOSS


def descent(last: State, expected_fall: float) -> dict[str, Message]:
    """The result "descent" of a technique whose loop has ended with `last`."""
    first, end = float(last[FIRST_LOSS]), float(last[LAST_LOSS])
    return {"descent": job_pb2.Descent(first_loss=first, last_loss=end, expected_fall=expected_fall)}


def warnings(found: job_pb2.Descent) -> list[str]:
    """One where the loss has fallen by less than the expected share of itself, or is no number."""
    if found.last_loss <= (1 - found.expected_fall) * found.first_loss:
        return []
    how = f"the loss went from {found.first_loss:.3g} to {found.last_loss:.3g}"
    wanted = f"a result of use takes a fall of {found.expected_fall:.0%}"
    return [f"{how}, {wanted} or more: take more steps, another seed, or other weights"]
