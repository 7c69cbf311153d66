"""Where the server is, and how the connection to it is set up."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Final

import grpc

from convlens.errors import InvalidArgument
from convlens.serialised import reader

DEFAULT_ADDRESS: Final = "127.0.0.1:8500"
OUR_PEM: Final = {"certificate": "CONVLENS_CLIENT_CERTIFICATE", "key": "CONVLENS_CLIENT_KEY"}
"""The variables that name what a client shows of itself."""

OPTIONS: Final = (
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_receive_message_length", 64 << 20),  # Tensors come in pieces of 1 MiB, files in one.
    # A watcher may hear nothing for minutes: notice within 25 s that the server has gone, before a call's
    # deadline, and keep NAT tables alive. Servers allow a ping every 5 s (CONVLENS_CLIENT_PINGS).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.ping_timeout_ms", 15_000),  # The one that counts; gRPC would wait a minute.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
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
        self.closed = False

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
        self.closed = True
        return self._channel.close(*grace)


def connect(library: Any, address: str, secret: grpc.ChannelCredentials | None) -> Any:
    """A channel of `grpc` or of `grpc.aio`; in plain text without `credentials`."""
    return TensorChannel(
        library.secure_channel(address, secret, OPTIONS)
        if secret
        else library.insecure_channel(address, OPTIONS)
    )


def server_address(address: str | None = None) -> str:
    """`address`, else `CONVLENS_SERVER`, else 127.0.0.1:8500."""
    return address or os.environ.get("CONVLENS_SERVER") or DEFAULT_ADDRESS


def credentials(
    tls: bool | str | Path | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
) -> grpc.ChannelCredentials | None:
    """TLS with the system's roots (True) or with those in a PEM file; None for plain text.

    `tls=None` reads `CONVLENS_TLS`: "1" or the path of a PEM file. Where the server asks for clients'
    certificates, `certificate` and `key` are the PEM files of ours, by default those that
    `CONVLENS_CLIENT_CERTIFICATE` and `CONVLENS_CLIENT_KEY` name; who gives them as arguments wants TLS.

    Raises:
        InvalidArgument: a file that cannot be read, one of certificate and key without the other, or either
            without TLS.
    """
    named = {"certificate": certificate, "key": key}
    given = next((field for field, path in named.items() if path), "")
    if tls is None:
        setting = os.environ.get("CONVLENS_TLS", "") or ("1" if given else "")
        tls = {"": False, "0": False, "1": True}.get(setting, setting)
    if tls is False:
        if given:
            raise InvalidArgument.of(given, str(named[given]), "left out without TLS")
        return None
    paths = {field: path or os.environ.get(OUR_PEM[field]) for field, path in named.items()}
    for field, path in paths.items():
        other = next(name for name in paths if name != field)
        if path and not paths[other]:
            raise InvalidArgument.of(field, str(path), f"given with {other} ({OUR_PEM[other]})")
    roots = None if tls is True else _pem(tls, "tls")
    ours = (_pem(paths[field], field) for field in ("key", "certificate"))
    return grpc.ssl_channel_credentials(roots, *ours)


def patience_setting(patience: float | None = None) -> float | None:
    """`patience`, else `CONVLENS_PATIENCE`, in seconds; None where neither is given."""
    field = "patience"
    value: str | float | None = patience
    if patience is None:
        field, value = "CONVLENS_PATIENCE", os.environ.get("CONVLENS_PATIENCE") or None
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise InvalidArgument.of(field, value, "a number of seconds, at least 0")
    return seconds


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
