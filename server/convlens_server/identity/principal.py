"""Who calls, and what is theirs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from convlens_server.serving import request_context

ADMIN: Final = "admin"
"""The role that loads and unloads models."""


@dataclass(frozen=True)
class Principal:
    """Whoever calls.

    Attributes:
        name: for logs.
        tenant: whose jobs, collections and caches they may use; "" where everything is everybody's.
        roles: what else they may do.
    """

    name: str
    tenant: str
    roles: frozenset[str] = frozenset()


ANYBODY: Final = Principal("anybody", "", frozenset({ADMIN}))
"""Who calls a server that asks for no credentials."""


def principal() -> Principal:
    """Who makes the current call."""
    call = request_context.current.get()
    return call.principal if call and call.principal else ANYBODY


def owner() -> str:
    """The tenant of the current call as it stands in names of things that are kept: "" or 16 hex digits."""
    tenant = principal().tenant
    return hashlib.sha256(tenant.encode()).hexdigest()[:16] if tenant else ""
