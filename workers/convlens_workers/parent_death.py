"""Processes that end with the process that started them, also where that one is killed; on Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def parent_death_signal(number: int) -> Callable[[], None] | None:
    """A call after which the kernel sends signal `number` to the calling process once its parent has ended.

    None where the system has no such call. A child of `subprocess` takes it as `preexec_fn`.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return None if prctl is None else lambda: prctl(PR_SET_PDEATHSIG, number)


def die_with(parent: int) -> None:
    """Let the kernel kill this process as soon as its parent, the process `parent`, ends."""
    if request := parent_death_signal(signal.SIGKILL):
        request()
    if os.getppid() != parent:
        sys.exit("the supervisor is gone already")
