"""Files of credentials that may be replaced while the server runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

T = TypeVar("T")

LOOK_EVERY: Final = 1.0
"""Seconds between looks at the files."""

log = logging.getLogger("convlens.identity")


class Reloading(Generic[T]):
    """What `read` makes of a file, anew when it has changed; a bad file leaves what was there."""

    def __init__(self, path: Path, read: Callable[[bytes], T]) -> None:
        self._path = path
        self._read = read
        self._seen = self._state()
        self._looked = time.monotonic()
        self._value = read(path.read_bytes())

    @property
    def value(self) -> T:
        """As of now."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            self._refresh()
        return self._value

    def _refresh(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        try:
            self._value = self._read(self._path.read_bytes())
            log.info("%s has changed, and counts from now on", self._path.name)
        except (OSError, ValueError) as error:
            log.error("%s cannot be used, the last good one stays: %s", self._path.name, type(error).__name__)
        self._seen = state

    def _state(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()  # Follows the links by which Kubernetes replaces mounted files.
        except OSError:
            return 0, 0, 0
        return found.st_mtime_ns, found.st_size, found.st_ino
