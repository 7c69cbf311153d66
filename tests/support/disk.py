"""A shim between the artifact store and its disk, which breaks one operation as a disk would."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import obstore
from obstore.exceptions import GenericError, PermissionDeniedError

from convlens_workers.jobs import artifacts

OPERATIONS: Final = frozenset(re.findall(r"obstore\.([a-z_]+)\(", inspect.getsource(artifacts)))
"""What the artifact store asks of a disk."""
WRITES: Final = frozenset(("put", "copy"))
READS: Final = frozenset(("get", "copy", "head_async", "get_range_async"))


class DiskFault(NamedTuple):
    """What becomes of an operation."""

    operations: frozenset[str]
    """Those that it may happen to."""
    happens: Callable[[Path], None]
    """What happens in the folder to the object of that path, beside or in place of the operation."""
    error: Exception | None = None
    """What the operation raises; None where it goes on, and sees what has happened."""
    done: bool = False
    """Whether it is done before it raises."""


def _nothing(_: Path) -> None:
    pass


def _half(path: Path) -> None:
    """As a writer that was killed leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}#1").write_bytes(b"half")


def _vanish(path: Path) -> None:
    path.unlink(missing_ok=True)


DISK_FAULTS: Final = {
    "ENOSPC": DiskFault(WRITES, _nothing, GenericError("No space left on device (os error 28)")),
    "partial write": DiskFault(WRITES, _half, GenericError("No space left on device (os error 28)")),
    "folder removed": DiskFault(
        frozenset(("put",)), _nothing, FileNotFoundError("No such file or directory")
    ),
    "EIO": DiskFault(OPERATIONS, _nothing, GenericError("Input/output error (os error 5)")),
    "EIO, yet done": DiskFault(OPERATIONS, _nothing, GenericError("Input/output error (os error 5)"), True),
    "vanished": DiskFault(READS, _vanish),
    "unreadable": DiskFault(READS, _nothing, PermissionDeniedError("Permission denied (os error 13)")),
}


class Disk:
    """Stands for the module `obstore`; the `number`th operation from `break_one` on meets the fault.

    Attributes:
        seen: the operations since then.
        broken: whether the fault has happened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.break_one(0, None)

    def break_one(self, number: int, fault: DiskFault | None) -> None:
        """Count anew, from 1, the operations that the fault may happen to."""
        self._number, self._fault, self.broken = number, fault, False
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(obstore, name)
        if name not in OPERATIONS:
            return real
        return self._asynchronous(name, real) if name.endswith("_async") else self._plain(name, real)

    def _plain(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(store: Any, key: str, *args: Any, **kwargs: Any) -> Any:
            copied = name == "copy" and self._fault is not None and self._fault.operations is WRITES
            error = self._meet(name, args[0] if copied else key)
            value = real(store, key, *args, **kwargs) if error is None or self._is_done else None
            if error is not None:
                raise error
            return value

        return call

    def _asynchronous(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        async def call(store: Any, key: str, *args: Any, **kwargs: Any) -> Any:
            error = self._meet(name, key)
            value = await real(store, key, *args, **kwargs)
            if error is not None:
                raise error
            return value

        return call

    @property
    def _is_done(self) -> bool:
        return self._fault is not None and self._fault.done

    def _meet(self, name: str, key: str) -> Exception | None:
        if self._fault is not None and name not in self._fault.operations:
            return None
        self.seen.append(name)
        if self._fault is None or len(self.seen) != self._number:
            return None
        self.broken = True
        self._fault.happens(self.folder / key)
        return self._fault.error
