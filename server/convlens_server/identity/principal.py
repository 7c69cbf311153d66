"""Who makes the current call, and what is theirs."""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

ADMIN: Final = "admin"
"""The role that adds, loads and unloads models."""


@dataclass(frozen=True)
class Principal:
    """Someone who calls, once the credentials have been checked.

    Attributes:
        name: who it is, for logs.
        tenant: whose jobs, collections and caches they may use; "" where everything is everybody's.
        roles: names of what else they may do.
    """

    name: str
    tenant: str
    roles: frozenset[str] = frozenset()


ANYBODY: Final = Principal("anybody", "", frozenset({ADMIN}))
"""Who calls a server that asks for no credentials."""

current: ContextVar[Principal | None] = ContextVar("principal", default=None)
"""Who makes the call that this task or thread works for, once that is known."""


def principal() -> Principal:
    """Who makes the current call."""
    return current.get() or ANYBODY


def sharer() -> str | None:
    """Whose the current call is among those who share a room: its tenant's; None may have all of it."""
    who = principal()
    return None if who is ANYBODY else who.tenant


def owner() -> str:
    """The tenant of the current call as names of stored things have it: "" or 16 hexadecimal digits."""
    tenant = principal().tenant
    return hashlib.sha256(tenant.encode()).hexdigest()[:16] if tenant else ""
