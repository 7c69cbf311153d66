"""Callers who leave: the computation for them stops, without any technique knowing about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

from convlens.errors import Cancelled


class Caller:
    """Someone who waits for a piece of work; `leave` may be called by another thread at any moment.

    Args:
        give_way: runs shorter work of others in this thread, if there is some.
    """

    def __init__(self, give_way: Callable[[], None] = lambda: None) -> None:
        self._give_way = give_way
        self._lock = Lock()
        self._left = False
        self._interrupts: list[Callable[[], None]] = []

    def leave(self) -> None:
        """Interrupt all computation for this caller, now and from now on."""
        with self._lock:
            self._left = True
            for interrupt in self._interrupts:
                interrupt()

    def pause(self, *, holding: bool = False) -> None:
        """Let others through; `holding` says that a lock is held which their work might need.

        Raises:
            Cancelled: the caller has left.
        """
        if not self._left and not holding:
            self._give_way()
        if self._left:
            raise Cancelled("the caller has left")

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call `interrupt` if the caller leaves within the block. Raises Cancelled if it has left before."""
        with self._lock:
            if self._left:
                raise Cancelled("the caller has left")
            self._interrupts.append(interrupt)
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)


current: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""The caller that this thread computes for; the executor sets it, backends look at it at every pass."""


@contextmanager
def interruptible(interrupt: Callable[[], None]) -> Iterator[None]:
    """`Caller.interrupting` for the current caller, once others have been let through; or nothing.

    This is where every pass of a network begins. No lock may be held here that other work might need.
    """
    caller = current.get()
    if caller is None:
        yield
        return
    caller.pause()
    with caller.interrupting(interrupt):
        yield
