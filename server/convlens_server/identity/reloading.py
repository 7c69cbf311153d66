"""Files of credentials that may be replaced while the server runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from convlens.errors import FailedPrecondition

T = TypeVar("T")

POLL_INTERVAL: Final = 1.0
"""Seconds between two looks at a file."""

log = logging.getLogger("convlens.identity")


class Reloading(Generic[T]):
    """A value that `read` makes of a file, anew when it has changed; a bad file leaves the old value.

    Raises:
        FailedPrecondition: there is no such file at first, or it cannot be read.
    """

    def __init__(self, path: Path, read: Callable[[bytes], T]) -> None:
        self._path = path
        self._read = read
        self._seen = self._state()
        self._polled = time.monotonic()
        try:
            self._value = read(path.read_bytes())
        except OSError as error:
            raise FailedPrecondition(f"{path} cannot be read: {error.strerror}") from error

    @property
    def value(self) -> T:
        """The value of the newest good file."""
        now = time.monotonic()
        if now - self._polled >= POLL_INTERVAL:
            self._polled = now
            self._refresh()
        return self._value

    def _refresh(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        try:
            self._value = self._read(self._path.read_bytes())
            log.info("%s has changed, and counts from now on", self._path.name)
        except Exception as error:  # Whatever lies there, and whatever a reader makes of it.
            log.error("%s cannot be used, the last good one stays: %s", self._path.name, type(error).__name__)
        self._seen = state

    def _state(self) -> tuple[int, int, int]:
        try:
            stat = self._path.stat()  # Follows the links by which Kubernetes replaces mounted files.
        except OSError:
            return 0, 0, 0
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
