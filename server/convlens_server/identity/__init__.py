"""Who calls: a middleware around every call that lets nobody in unless they show who they are."""

from __future__ import annotations

from typing import Any

from convlens.errors import PermissionDenied, Unauthenticated
from convlens_server.identity.certificates import certified
from convlens_server.identity.keys import PREFIX, ApiKeys
from convlens_server.identity.principal import ADMIN, ANYBODY, Principal, owner, principal
from convlens_server.identity.settings import IdentitySettings
from convlens_server.identity.tokens import Tokens
from convlens_server.serving.request_context import Context, Proceed, RequestContext

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


class Identity:
    """Credentials are "authorization: Bearer <API key or token>", or the certificate of the connection.

    What is presented must be right: a wrong key is refused however good the certificate is. Without any way
    configured, everybody may do everything: a server for one person, or behind something that asks.
    """

    def __init__(self, settings: IdentitySettings) -> None:
        self._keys = ApiKeys(settings.api_keys) if settings.api_keys else None
        self._tokens = (
            Tokens(
                settings.jwt_keys,
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                algorithms=settings.jwt_algorithms,
                tenant_claim=settings.jwt_tenant_claim,
                roles_claim=settings.jwt_roles_claim,
            )
            if settings.jwt_keys
            else None
        )
        self._certificates = settings.tls_client_authorities is not None
        self._admins = settings.admins

    @property
    def open(self) -> bool:
        """Whether anybody may call."""
        return not (self._keys or self._tokens or self._certificates)

    async def middleware(self, call: RequestContext, proceed: Proceed) -> Any:
        """Says who calls. Raises Unauthenticated."""
        found = ANYBODY if self.open else self._identify(call.context)
        roles = found.roles | ({ADMIN} if found.tenant in self._admins else set())
        call.principal = Principal(found.name, found.tenant, frozenset(roles))
        return await proceed(call)

    def _identify(self, context: Context) -> Principal:
        presented = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        if presented:
            return (
                self._check(str(presented[0])) if len(presented) == 1 else _refuse("more than one is given")
            )
        if self._certificates and (found := certified(context)):
            return found
        return _refuse("none is given")

    def _check(self, presented: str) -> Principal:
        scheme, _, credential = presented.partition(" ")
        if scheme.lower() != "bearer" or not credential:
            return _refuse('the scheme is not "Bearer"')
        if credential.startswith(PREFIX) and self._keys:
            return self._keys.check(credential)
        return (
            self._tokens.check(credential)
            if self._tokens
            else _refuse("it is of no kind that this server takes")
        )


def _refuse(why: str) -> Principal:
    raise Unauthenticated(f"a credential is needed: {why}", reason="NO_CREDENTIAL")


def require_role(role: str) -> None:
    """Raises PermissionDenied unless the caller has the role."""
    if role not in principal().roles:
        raise PermissionDenied(f"this needs the role {role!r}", reason="ROLE_MISSING")
