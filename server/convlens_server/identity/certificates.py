"""TLS: the server's certificate, replaced while it runs, and the certificates of clients."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import grpc

from convlens_server.identity.principal import Principal
from convlens_server.identity.reloading import Reloading
from convlens_server.serving.request_context import Context


class Pems(NamedTuple):
    """Certificate chain and private key of the server, and the authorities of clients where they need one."""

    certificate: Path
    key: Path
    client_authorities: Path | None = None


def server_credentials(pems: Pems) -> grpc.ServerCredentials:
    """Credentials that follow their files: a handshake uses what lies there then, if it can be read.

    Raises OSError when a file cannot be read now.
    """
    files = [Reloading(path, bytes) for path in pems if path is not None]

    def read() -> grpc.ServerCertificateConfiguration:
        certificate, key, *authorities = (file.value for file in files)
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=authorities[0] if authorities else None
        )

    return grpc.dynamic_ssl_server_credentials(
        read(), read, require_client_authentication=pems.client_authorities is not None
    )


def certified(context: Context) -> Principal | None:
    """Whose certificate the connection was made with: the tenant is its common name."""
    names = list(context.auth_context().get("x509_common_name", []))
    name = names[0].decode(errors="replace") if names else ""
    return Principal(f"certificate:{name}", name) if name else None
