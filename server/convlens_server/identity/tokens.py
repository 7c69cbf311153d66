"""JSON Web Tokens of an issuer that the operator trusts (RFC 7519; RFC 8725 on what to check)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import jwt

from convlens.errors import Unauthenticated
from convlens_server.identity.principal import Principal
from convlens_server.identity.reloading import Reloading
from convlens_server.identity.settings import IdentitySettings

LEEWAY: Final = 30
"""Seconds by which the clocks of issuer and server may differ."""
REQUIRED: Final = ("exp", "iss", "aud", "sub")


class Tokens:
    """Tokens signed by one of the keys of a JWKS file.

    Args:
        keys: file of the issuer's public keys, a JSON Web Key Set.
        settings: say which issuer and audience a token must name, which algorithms it may be signed with,
            and which claims hold the tenant and the roles.
    """

    def __init__(self, keys: Path, settings: IdentitySettings) -> None:
        self._keys = Reloading(keys, _key_set)
        self._settings = settings

    def check(self, token: str) -> Principal:
        """The principal whose token it is.

        Raises:
            Unauthenticated: expired, not signed by the issuer, for somebody else, or without a tenant.
        """
        settings = self._settings
        try:
            claims = jwt.decode(
                token,
                self._key(token),
                algorithms=settings.jwt_algorithms,
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                leeway=LEEWAY,
                options={"require": list(REQUIRED)},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired", reason="EXPIRED") from None
        except (jwt.InvalidTokenError, jwt.PyJWTError) as error:
            kind = type(error).__name__.removesuffix("Error")
            raise Unauthenticated(f"the token is not valid here: {kind}", reason="BAD_TOKEN") from None
        tenant, roles = claims.get(settings.jwt_tenant_claim), claims.get(settings.jwt_roles_claim, [])
        if not isinstance(tenant, str) or not 0 < len(tenant) <= 128:
            raise Unauthenticated(f"the token has no claim {settings.jwt_tenant_claim!r}", reason="BAD_TOKEN")
        named = [role for role in roles if isinstance(role, str)] if isinstance(roles, list) else []
        return Principal(f"token:{str(claims['sub'])[:128]}", tenant, frozenset(named))

    def _key(self, token: str) -> jwt.PyJWK:
        id_, known = jwt.get_unverified_header(token).get("kid"), self._keys.value
        if id_ is None and len(known) == 1:
            return next(iter(known.values()))
        if id_ not in known:
            raise jwt.InvalidKeyError("no such key")
        return known[id_]


def _key_set(data: bytes) -> dict[str | None, jwt.PyJWK]:
    try:
        return {key.key_id: key for key in jwt.PyJWKSet.from_json(data.decode()).keys}
    except Exception as error:  # The library asks for attributes of whatever JSON it finds.
        raise ValueError(f"no JSON Web Key Set: {type(error).__name__}") from error
