"""Where the server is, and how the connection to it is set up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import grpc

from convlens.errors import InvalidArgument
from convlens.serialised import reader

DEFAULT_ADDRESS: Final = "127.0.0.1:8500"

OPTIONS: Final = (
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_receive_message_length", 64 << 20),  # Tensors come in pieces of 1 MiB, files in one.
    # A watcher may hear nothing for minutes: notice that the server has gone, and keep NAT tables alive.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Where a name has several addresses (dns:///convlens-server-headless...), calls go to all in turn.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)


class TensorChannel:
    """A channel whose large tensors are not copied before they are put in their places.

    Args:
        channel: of gRPC, synchronous or not.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.unary_unary, self.stream_unary = channel.unary_unary, channel.stream_unary

    def unary_stream(self, method: str, *args: Any, response_deserializer: Any, **kwargs: Any) -> Any:
        """A method of one request and many replies, whose tensors stay in the bytes that came."""
        read = reader(response_deserializer)
        return self._channel.unary_stream(method, *args, response_deserializer=read, **kwargs)

    def stream_stream(self, method: str, *args: Any, response_deserializer: Any, **kwargs: Any) -> Any:
        """A method of many requests and many replies, whose tensors stay in the bytes that came."""
        read = reader(response_deserializer)
        return self._channel.stream_stream(method, *args, response_deserializer=read, **kwargs)

    def close(self, *grace: float) -> Any:
        """Closes the channel; that of grpc.aio is awaited, and gives calls `grace` seconds to end."""
        return self._channel.close(*grace)


def connect(library: Any, address: str, tls: bool | str | Path | None) -> Any:
    """A channel of `grpc` or of `grpc.aio`; `tls` is as for `credentials`."""
    secret = credentials(tls)
    return TensorChannel(
        library.secure_channel(address, secret, OPTIONS)
        if secret
        else library.insecure_channel(address, OPTIONS)
    )


def server_address(address: str | None = None) -> str:
    """`address`, else `CONVLENS_SERVER`, else 127.0.0.1:8500."""
    return address or os.environ.get("CONVLENS_SERVER") or DEFAULT_ADDRESS


def credentials(tls: bool | str | Path | None = None) -> grpc.ChannelCredentials | None:
    """TLS with the system's roots (True) or with those in a PEM file; None for plain text.

    `tls=None` reads `CONVLENS_TLS`: "1" or the path of a PEM file. Where the server asks for clients'
    certificates, `CONVLENS_CLIENT_CERTIFICATE` and `CONVLENS_CLIENT_KEY` are the PEM files of ours.
    """
    if tls is None:
        setting = os.environ.get("CONVLENS_TLS", "")
        tls = {"": False, "0": False, "1": True}.get(setting, setting)
    if tls is False:
        return None
    roots = None if tls is True else _pem(tls, "tls")
    key, certificate = (
        _pem(os.environ.get(name), name) for name in ("CONVLENS_CLIENT_KEY", "CONVLENS_CLIENT_CERTIFICATE")
    )
    return grpc.ssl_channel_credentials(roots, key, certificate)


def metadata(token: str | None = None) -> tuple[tuple[str, str], ...]:
    """What goes with every call: an API key or JSON Web Token, by default `CONVLENS_TOKEN`, if any."""
    token = token or os.environ.get("CONVLENS_TOKEN", "")
    if not token.isascii() or not token.isprintable():
        raise InvalidArgument.of("token", "(not shown)", "printable ASCII")
    return (("authorization", f"Bearer {token}"),) if token else ()


def _pem(path: str | Path | None, field: str) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise InvalidArgument.of(field, str(path), f"a readable PEM file ({error.strerror})") from error
