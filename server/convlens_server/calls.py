"""A call while it is served: what is known of it, wherever the code is that works for it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from convlens_server.identity.principal import Principal

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class Call:
    """One call of a client.

    Attributes:
        method: "/package.Service/Method".
        context: gRPC's.
        id: for logs and errors; the same in both.
        started: on the clock of `time.perf_counter`.
        code: how it has ended, as gRPC names it.
        principal: who makes it, once that is known.
        phases: seconds spent in "queue", "decode", "compute", "encode".
    """

    method: str
    context: Context
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.perf_counter)
    code: str = "OK"
    principal: Principal | None = None
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.perf_counter() - self.started


Layer = Callable[[Call], AbstractAsyncContextManager[None]]
"""Something that happens around every call, as errors, identity, quotas and metrics."""

current: ContextVar[Call | None] = ContextVar("call", default=None)
"""The call that this task or thread works for."""


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Counts the time within it as that phase of the current call, if there is one."""
    began = time.perf_counter()
    try:
        yield
    finally:
        add(name, time.perf_counter() - began)


def add(name: str, seconds: float) -> None:
    """Adds to a phase of the current call, if there is one."""
    call = current.get()
    if call is not None:
        call.phases[name] = call.phases.get(name, 0.0) + seconds
