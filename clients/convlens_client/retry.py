"""When to try a call again, and when to give up."""

from __future__ import annotations

import random
import time

import grpc

from convlens.errors import (
    ConvLensError,
    DeadlineExceeded,
    ResourceExhausted,
    Unavailable,
    from_rpc_error,
)
from convlens_client.calls import Rpc

FIRST_DELAY = 0.05
LONGEST_DELAY = 2.0
FULL_PATIENCE = 60.0
"""Seconds that a call without a deadline comes back to a full server, as often as that says when."""


class RetryPolicy:
    """The attempts at one call: doubling delays with jitter, the server's RetryInfo, one deadline for all.

    Every call of ConvLens may be repeated (a job is known by its request id), so that Unavailable is always
    tried again, for the last time when patience ends; ResourceExhausted only when the server says when.

    Args:
        patience: seconds that the server may be away or full; by default those of the call, and for a full
            one, which says when to come back, as many as are left until the deadline.
    """

    def __init__(self, call: Rpc[object], timeout: float | None, patience: float | None = None) -> None:
        self._call = call
        self._patience = patience
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._delay = FIRST_DELAY
        self._failing_since: float | None = None

    def progressed(self) -> None:
        """The server has replied: patience begins anew, unless a break would undo what came."""
        if self._call.lasting:
            self._delay, self._failing_since = FIRST_DELAY, None

    def remaining(self) -> float | None:
        """Seconds until the deadline. Raises DeadlineExceeded when it has passed."""
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"no answer within {self._timeout:g} s")
        return left

    def delay(self, failure: grpc.RpcError | ConvLensError) -> float:
        """Seconds to wait before the next attempt; raises the failure when there shall be none."""
        error = failure if isinstance(failure, ConvLensError) else from_rpc_error(failure)
        left = self._patience_left(full=isinstance(error, ResourceExhausted))
        delay = max(min(self._delay * random.uniform(0.8, 1.2), left), error.retry_after or 0)
        if not _passing(error) or left <= 0 or delay > left or self._too_late(delay):
            raise self._call.explained(error) from (None if failure is error else failure)
        self._delay = min(2 * self._delay, LONGEST_DELAY)
        return delay

    def _patience_left(self, full: bool) -> float:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        patience = self._call.patience if self._patience is None else self._patience
        if full and self._patience is None:
            patience = FULL_PATIENCE if self._deadline is None else self._deadline - self._failing_since
        return self._failing_since + patience - now

    def _too_late(self, delay: float) -> bool:
        return self._deadline is not None and time.monotonic() + delay >= self._deadline


def _passing(error: ConvLensError) -> bool:
    return isinstance(error, Unavailable) or (
        isinstance(error, ResourceExhausted) and error.retry_after is not None
    )
