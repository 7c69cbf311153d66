"""Processes with this folder in PYTHONPATH find the artifact store's disk to be as the file BAD_DISK says.

It holds the seconds that each operation takes, and what becomes of it then: "ok", "ENOSPC" (writes fail) or
"EIO" (all do). While there is no such file the disk is as it is.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import GenericError

PLACE = Path(os.environ.get("BAD_DISK", "/nonexistent"))
FAILING = {"ok": (), "ENOSPC": ("put", "copy"), "EIO": ("put", "get", "copy", "list", "delete", "head_async")}


def trouble(name: str) -> tuple[float, Exception | None]:
    try:
        seconds, what = PLACE.read_text().split()
    except (OSError, ValueError):
        return 0.0, None
    return float(seconds), GenericError(what) if name in FAILING[what] else None


def troubled(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def late(*args: Any, **kwargs: Any) -> Any:
        seconds, error = trouble(name)
        time.sleep(seconds)
        if error is not None:
            raise error
        return call(*args, **kwargs)

    @wraps(call)
    async def late_async(*args: Any, **kwargs: Any) -> Any:
        seconds, error = trouble(name)
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return await call(*args, **kwargs)

    return late_async if name.endswith("_async") else late


for name in ("put", "get", "copy", "list", "delete", "head_async", "get_range_async"):
    setattr(obstore, name, troubled(name, getattr(obstore, name)))
