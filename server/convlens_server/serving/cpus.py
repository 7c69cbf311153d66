"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")


def cpus(cgroup: Path = CGROUP) -> int:
    """CPUs that this process may run on, no more than its cgroup's quota, which a container's limit sets."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """CPUs' worth of time that the cgroup may use, version 2 or 1; infinite where nothing is said."""
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
