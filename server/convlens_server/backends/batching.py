"""A backend around a backend that runs concurrent calls of one graph as one pass, for GPUs.

Calls whose passes are of one graph and one shape of image form a group. The first of them leads: it waits
until the group is full or the delay has passed, then for the pass before, during which others may still join,
and then runs one pass for all. A GPU takes little longer for many images than for one; a CPU gains nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Lock
from typing import Final

import numpy as np

from convlens.errors import Cancelled, ResourceExhausted
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.manifest import Batching
from convlens_models.repository import StoredModel
from convlens_server.backends.base import F32, Backend
from convlens_server.request import cancellation
from convlens_server.request.request_context import phase

Pass = Callable[..., Sequence[F32]]
"""Computes arrays from arrays, the images of each along its first axis."""

FULL_RETRY: Final = 0.1
"""Seconds after which a call that found the queue full should come back."""


@dataclass(eq=False)
class Ticket:
    """The part of one call in a group: its arrays, and later its results."""

    arrays: Sequence[F32]
    group: Group | None = None
    results: Sequence[F32] = ()
    left: bool = False

    @property
    def images(self) -> int:
        """The number of the call's images."""
        return len(self.arrays[0])


@dataclass(eq=False)
class Group:
    """Calls that become one pass; its `caller` leaves when all of them have left."""

    run: Pass
    tickets: list[Ticket] = field(default_factory=list)
    caller: cancellation.Caller = field(default_factory=cancellation.Caller)
    full: bool = False
    begun: bool = False
    done: bool = False
    error: Exception | None = None

    @property
    def images(self) -> int:
        """The number of the images of all calls."""
        return sum(ticket.images for ticket in self.tickets)


class Batcher:
    """The same backend, for calls that come from many threads at once.

    A call's values are those that it would have alone up to the rounding of float32, as a pass over several
    images adds up in another order: relative differences of 1e-6 or so. An error of a pass is that of all
    whose images were in it, and of nobody else.
    """

    def __init__(self, backend: Backend, settings: Batching) -> None:
        self._backend = backend
        self._settings = settings
        self._changed = Condition()
        self._running = Lock()
        self._open: dict[Hashable, Group] = {}
        self._waiting = 0

    @property
    def stored(self) -> StoredModel:
        """The version of the model that it runs."""
        return self._backend.stored

    def forward(self, images: F32, layers: Sequence[str]) -> dict[str, F32]:
        """The value of each layer, from one pass."""
        wanted = sorted(set(layers))

        def run(images: F32) -> list[F32]:
            values = self._backend.forward(images, wanted)
            return [values[layer] for layer in wanted]

        values = dict(zip(wanted, self._join(("forward", *wanted), run, images), strict=True))
        return {layer: values[layer] for layer in layers}

    def gradient(self, images: F32, layer: str, cotangent: F32, rule: ReluRule) -> tuple[F32, F32]:
        """The layer's value, and the gradient of <value, cotangent> to the images."""
        value, gradient = self._join(
            ("gradient", layer, rule),
            lambda images, cotangent: self._backend.gradient(images, layer, cotangent, rule),
            images,
            cotangent,
        )
        return value, gradient

    def inner_gradient(self, images: F32, layer: str, cotangent: F32, wrt: str) -> tuple[F32, F32, F32]:
        """The values of `layer` and `wrt`, and the gradient of <value, cotangent> to the latter."""
        value, inner, gradient = self._join(
            ("inner", layer, wrt),
            lambda images, cotangent: self._backend.inner_gradient(images, layer, cotangent, wrt),
            images,
            cotangent,
        )
        return value, inner, gradient

    def with_weights(self, folder: Path) -> Backend:
        """The backend with other weights, which are one call's own: nobody could join."""
        return self._backend.with_weights(folder)

    def close(self) -> None:
        """Free the memory of the backend."""
        self._backend.close()

    def _join(self, graph: tuple[Hashable, ...], run: Pass, *arrays: F32) -> Sequence[F32]:
        """The results of `run` for these arrays, in a pass with those of other calls."""
        ticket = Ticket(arrays)
        if ticket.images >= self._settings.max_batch or len(arrays[-1]) != ticket.images:
            return run(*arrays)
        key = (*graph, *((array.shape[1:], array.dtype.str) for array in arrays))
        with cancellation.interruptible(lambda: self._leave(ticket)):
            group, leads = self._enter(key, run, ticket)
            if leads:
                self._lead(key, group)
            else:
                self._follow(group, ticket)
        if ticket.left:
            raise Cancelled("the caller has left")
        if group.error is not None:
            raise group.error
        return ticket.results

    def _enter(self, key: Hashable, run: Pass, ticket: Ticket) -> tuple[Group, bool]:
        """The group that takes the ticket, and whether it is a new one."""
        with self._changed:
            self._wait_for_room(ticket)
            group = self._open.get(key)
            leads = group is None or group.images + ticket.images > self._settings.max_batch
            if group is None or leads:
                if group is not None:
                    group.full = True
                group = self._open[key] = Group(run)
            group.tickets.append(ticket)
            ticket.group = group
            group.full = group.images >= self._settings.max_batch
            self._waiting += 1
            self._changed.notify_all()
        return group, leads

    def _wait_for_room(self, ticket: Ticket) -> None:
        most = self._settings.max_queue
        if self._settings.queue == "reject" and self._waiting >= most:
            text = f"{self._waiting} calls wait for the model, the most that may"
            raise ResourceExhausted(text, reason="BATCH_QUEUE", retry_after=FULL_RETRY)
        with phase("queue"):
            self._changed.wait_for(lambda: ticket.left or self._waiting < most)
        if ticket.left:
            raise Cancelled("the caller has left")

    def _lead(self, key: Hashable, group: Group) -> None:
        """Run the pass, for whoever has not left by then; also when the leader itself has."""
        with phase("queue"):
            self._gather(group)
            self._running.acquire()  # Others go on joining meanwhile.
        try:
            with self._changed:
                if self._open.get(key) is group:
                    del self._open[key]
                self._waiting -= len(group.tickets)
                group.begun = True
                self._changed.notify_all()
            if group.tickets:
                _compute(group)
        finally:
            self._running.release()
            with self._changed:
                group.done = True
                self._changed.notify_all()

    def _gather(self, group: Group) -> None:
        until = time.monotonic() + self._settings.max_delay_ms / 1000
        with self._changed:
            while not group.full and group.tickets and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _follow(self, group: Group, ticket: Ticket) -> None:
        with self._changed:
            with phase("queue"):
                self._changed.wait_for(lambda: group.begun or ticket.left)
            with phase("compute"):
                self._changed.wait_for(lambda: group.done or ticket.left)

    def _leave(self, ticket: Ticket) -> None:
        """Take this caller out of a pass that has not begun, or stop one that nobody waits for any more."""
        with self._changed:
            ticket.left, group = True, ticket.group
            if group is not None and not group.begun:
                group.tickets.remove(ticket)
                self._waiting -= 1
            elif group is not None and all(other.left for other in group.tickets):
                group.caller.leave()
            self._changed.notify_all()


def _compute(group: Group) -> None:
    """Run the pass of a group that takes no more tickets, and give each its part."""
    several = len(group.tickets) > 1
    columns = zip(*(ticket.arrays for ticket in group.tickets), strict=True)
    token = cancellation.current.set(group.caller)
    try:
        results = group.run(*(np.concatenate(column) if several else column[0] for column in columns))
    except Exception as error:
        group.error = error
        return
    finally:
        cancellation.current.reset(token)
    begin = 0
    for ticket in group.tickets:
        part = slice(begin, begin + ticket.images)
        # Copies, so that a caller who reads slowly does not hold what is others'.
        ticket.results = [value[part].copy() if several else value for value in results]
        begin = part.stop
