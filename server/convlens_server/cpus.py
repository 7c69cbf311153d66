"""The number of CPUs that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")


def cpus(cgroup: Path = CGROUP) -> int:
    """The CPUs that this process may run on, at most its cgroup's quota, which a container's limit sets."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """The CPU seconds a second that the cgroup, of version 2 or 1, may use; infinite without a quota."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        except OSError:
            return math.inf
    try:
        return math.inf if int(quota) <= 0 else int(quota) / int(period)
    except ValueError:  # "max"
        return math.inf
