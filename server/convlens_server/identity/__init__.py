"""The identity of callers: a middleware around every call that lets in only those who show who they are."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from convlens.errors import PermissionDenied, Unauthenticated
from convlens_server.identity.certificates import certified
from convlens_server.identity.keys import PREFIX, ApiKeys
from convlens_server.identity.principal import ADMIN, ANYBODY, Principal, current, owner, principal
from convlens_server.identity.settings import IdentitySettings
from convlens_server.identity.tokens import Tokens
from convlens_server.request.request_context import Proceed, RequestContext, ServicerContext

__all__ = [
    "ADMIN",
    "ANYBODY",
    "Identity",
    "IdentitySettings",
    "Principal",
    "owner",
    "principal",
    "require_role",
]

RECHECK_SECONDS: Final = 1.0
"""Seconds between two looks at whether the credentials of the calls under way are still right."""


class Identity:
    """Credentials are "authorization: Bearer <API key or token>", or the certificate of the connection.

    What is presented must be right: a wrong key is refused however good the certificate is. Without any way
    configured, everybody may do everything: a server for one person, or behind something that asks.
    """

    def __init__(self, settings: IdentitySettings) -> None:
        self._keys = ApiKeys(settings.api_keys) if settings.api_keys else None
        self._tokens = Tokens(settings.jwt_keys, settings) if settings.jwt_keys else None
        self._certificates = settings.tls_client_authorities is not None
        self._admins = settings.admins
        self._under_way: set[RequestContext] = set()

    @property
    def open(self) -> bool:
        """Whether anybody may call."""
        return not (self._keys or self._tokens or self._certificates)

    async def middleware(self, context: RequestContext, proceed: Proceed) -> Any:
        """Set the current principal. Raises Unauthenticated."""
        caller = ANYBODY if self.open else self._identify(context.servicer_context)
        roles = caller.roles | ({ADMIN} if caller.tenant in self._admins else set())
        current.set(Principal(caller.name, caller.tenant, frozenset(roles)))
        if self.open:
            return await proceed(context)
        self._under_way.add(context)
        try:
            return await proceed(context)
        finally:
            self._under_way.discard(context)

    async def keep_checking(self) -> None:
        """End calls whose credential has been withdrawn, or has expired, while they last; never returns."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            for context in list(self._under_way):
                try:
                    self._identify(context.servicer_context)
                except Unauthenticated as error:
                    context.end(error)

    def _identify(self, context: ServicerContext) -> Principal:
        presented = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        if len(presented) > 1:
            return _refuse("more than one is given")
        if presented:
            return self._check(str(presented[0]))
        certificate = certified(context) if self._certificates else None
        return certificate or _refuse("none is given")

    def _check(self, presented: str) -> Principal:
        scheme, _, credential = presented.partition(" ")
        if scheme.lower() != "bearer" or not credential:
            return _refuse('the scheme is not "Bearer"')
        if credential.startswith(PREFIX) and self._keys:
            return self._keys.check(credential)
        if self._tokens:
            return self._tokens.check(credential)
        return _refuse("it is of no kind that this server takes")


def _refuse(why: str) -> Principal:
    raise Unauthenticated(f"a credential is needed: {why}", reason="NO_CREDENTIAL")


def require_role(role: str) -> None:
    """Raise PermissionDenied unless the caller has the role."""
    if role not in principal().roles:
        raise PermissionDenied(f"this needs the role {role!r}", reason="ROLE_MISSING")
