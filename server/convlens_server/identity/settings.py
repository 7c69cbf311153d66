"""Settings of who may call."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from convlens_workers.jobs.settings import SOURCES

ASYMMETRIC: Final = frozenset(
    f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)
) | {"EdDSA"}


class IdentitySettings(BaseSettings):
    """Credentials that are taken; without any, everybody may call, on loopback addresses alone."""

    model_config = SOURCES

    tls_certificate: Path | None = None
    """PEM file of the server's certificate and chain; a replaced one counts within seconds."""
    tls_key: Path | None = None
    """PEM file of its private key."""
    tls_client_authorities: Path | None = None
    """PEM file of the authorities that sign clients' certificates (mTLS): connections need one of theirs, and
    its common name is the tenant."""
    api_keys: Path | None = None
    """File of API keys, which `convlens keys` writes."""
    jwt_keys: Path | None = None
    """File of the token issuer's public keys, a JSON Web Key Set."""
    jwt_issuer: str = ""
    """Issuer that tokens must name."""
    jwt_audience: str = "convlens"
    """Audience that tokens must name."""
    jwt_algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    """Algorithms that tokens may be signed with, as JSON."""
    jwt_tenant_claim: str = "tenant"
    """Claim that holds the tenant."""
    jwt_roles_claim: str = "roles"
    """Claim that holds the list of roles."""
    admins: frozenset[str] = frozenset()
    """Tenants that have the role "admin" beside those whose key or token says so, as JSON."""
    open_to_all: bool = False
    """Serve without credentials on any address: something in front of the server asks for them."""
    tenant_rate: float = Field(default=0.0, ge=0)
    """Calls a second that a tenant may make of this server, over ten seconds; 0: no limit."""
    tenant_calls: int = Field(default=0, ge=0)
    """Calls that a tenant may have under way on this server; 0: no limit."""

    @field_validator("jwt_algorithms")
    @classmethod
    def _asymmetric(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or not set(names) <= ASYMMETRIC:
            raise ValueError(f"{list(names)}: must be some of {', '.join(sorted(ASYMMETRIC))}")
        return names

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.tls_client_authorities and not self.tls_certificate:
            raise ValueError("tls_client_authorities needs tls_certificate and tls_key")
        if self.jwt_keys and not self.jwt_issuer:
            raise ValueError("jwt_keys needs jwt_issuer")
        return self
