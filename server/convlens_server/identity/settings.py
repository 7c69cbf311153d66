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
    """Which credentials the server takes; without any, everybody may call, on loopback addresses alone."""

    model_config = SOURCES

    tls_certificate: Path | None = None
    """PEM file of the server's certificate and its chain; it needs `tls_key`, and a file that is replaced
    counts within a second."""
    tls_key: Path | None = None
    """PEM file of the private key of `tls_certificate`."""
    tls_client_authorities: Path | None = None
    """PEM file of the authorities that sign clients' certificates (mutual TLS): a connection needs a
    certificate of one of them, and the certificate's common name is the tenant."""
    api_keys: Path | None = None
    """File of the API keys that are taken, which `convlens keys new` writes."""
    jwt_keys: Path | None = None
    """File with the public keys of the issuer of tokens, as a JSON Web Key Set; it needs `jwt_issuer`."""
    jwt_issuer: str = ""
    """Issuer that JSON Web Tokens must name."""
    jwt_audience: str = "convlens"
    """Audience that JSON Web Tokens must name."""
    jwt_algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    """Asymmetric algorithms by which JSON Web Tokens may be signed."""
    jwt_tenant_claim: str = "tenant"
    """Claim of a JSON Web Token that holds the tenant."""
    jwt_roles_claim: str = "roles"
    """Claim of a JSON Web Token that holds the list of roles."""
    admins: frozenset[str] = frozenset()
    """Tenants that have the role "admin", beside those whose API key or token gives it to them."""
    open_to_all: bool = False
    """Whether the server takes calls without credentials on an address that other machines can reach, because
    something in front of it asks for them."""
    tenant_rate: float = Field(default=0.0, ge=0)
    """Calls a second that one tenant may make of this server process, averaged over ten seconds, where each
    item of a stream that a client sends counts as a call and waits until it may; 0 sets no limit."""
    tenant_calls: int = Field(default=0, ge=0)
    """Number of calls that one tenant may have under way on this server process; 0 sets no limit."""

    @field_validator("jwt_algorithms")
    @classmethod
    def _asymmetric(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or not set(names) <= ASYMMETRIC:
            raise ValueError(f"must be some of {', '.join(sorted(ASYMMETRIC))}")
        return names

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("CONVLENS_TLS_CERTIFICATE and CONVLENS_TLS_KEY go together")
        if self.tls_client_authorities and not self.tls_certificate:
            raise ValueError("CONVLENS_TLS_CLIENT_AUTHORITIES needs CONVLENS_TLS_CERTIFICATE and its key")
        if self.jwt_keys and not self.jwt_issuer:
            raise ValueError("CONVLENS_JWT_KEYS needs CONVLENS_JWT_ISSUER")
        return self
