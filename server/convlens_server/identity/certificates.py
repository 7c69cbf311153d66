"""TLS: the server's certificate, replaced while it runs, and the certificates of clients."""

from __future__ import annotations

import grpc

from convlens_server.identity.principal import Principal
from convlens_server.identity.reloading import Reloading
from convlens_server.identity.settings import IdentitySettings
from convlens_server.request.request_context import ServicerContext


def server_credentials(settings: IdentitySettings) -> grpc.ServerCredentials | None:
    """Credentials that follow their files: a handshake uses what lies there then, if it can be read.

    None where the settings name no certificate. Raises FailedPrecondition when a file cannot be read now.
    """
    if settings.tls_certificate is None:
        return None
    paths = (settings.tls_certificate, settings.tls_key, settings.tls_client_authorities)
    files = [Reloading(path, bytes) for path in paths if path is not None]

    def read() -> grpc.ServerCertificateConfiguration:
        certificate, key, *authorities = (file.value for file in files)
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=authorities[0] if authorities else None
        )

    return grpc.dynamic_ssl_server_credentials(
        read(), read, require_client_authentication=settings.tls_client_authorities is not None
    )


def certified(context: ServicerContext) -> Principal | None:
    """The principal whose certificate the connection was made with: the tenant is its common name."""
    names = list(context.auth_context().get("x509_common_name", []))
    name = names[0].decode(errors="replace") if names else ""
    return Principal(f"certificate:{name}", name) if name else None
