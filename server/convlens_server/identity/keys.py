"""Static API keys: random strings of which the server keeps a hash alone.

A key is "clk_<id>_<secret>", its secret 256 random bits. So SHA-256 is enough: there is nothing to guess, and
no dictionary to try. The file of keys is JSON, {"keys": [{"id", "sha256", "tenant", "roles", "expires"}]}; a
changed file counts within a second, and one that cannot be read changes nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from convlens.errors import Unauthenticated
from convlens_server.identity.principal import Principal
from convlens_server.identity.reloading import Reloading

PREFIX: Final = "clk_"
NOBODY: Final = "0" * 64
"""The hash that a key is compared with when the file has none of that name."""


class Key(BaseModel):
    """An entry of the file of keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: str = Field(min_length=1, max_length=128)
    roles: frozenset[str] = frozenset()
    expires: AwareDatetime | None = None


class KeyFile(BaseModel):
    """The content of the file of keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[Key, ...] = ()


class ApiKeys:
    """The keys in a file. Making it raises OSError or ValueError when the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._keys = Reloading(
            path, lambda data: {key.id: key for key in KeyFile.model_validate_json(data).keys}
        )

    def check(self, presented: str) -> Principal:
        """The principal whose key it is; a wrong key takes as long as one that is not there.

        Raises:
            Unauthenticated: unknown, wrong or expired.
        """
        id_ = presented.removeprefix(PREFIX).partition("_")[0]
        key = self._keys.value.get(id_)
        digest = hashlib.sha256(presented.encode()).hexdigest()
        right = hmac.compare_digest(digest, key.sha256 if key else NOBODY)
        if key is None or not right:
            raise Unauthenticated("the API key is not known here", reason="BAD_KEY")
        if key.expires and key.expires <= datetime.now(UTC):
            raise Unauthenticated(f"the API key {key.id} has expired", reason="EXPIRED")
        return Principal(f"key:{key.id}", key.tenant, key.roles)


def issue(
    tenant: str, roles: frozenset[str] = frozenset(), expires: datetime | None = None
) -> tuple[str, Key]:
    """A new key, which nobody can see again, and what the file keeps of it."""
    id_ = secrets.token_hex(6)
    key = f"{PREFIX}{id_}_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    return key, Key(id=id_, sha256=digest, tenant=tenant, roles=roles, expires=expires)
