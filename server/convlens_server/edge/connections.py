"""Connections: what gRPC is told to bound, and the end of one whose client takes nothing any more."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote

from convlens_server.edge.settings import EdgeSettings

METADATA_BYTES: Final = 16 << 10
"""The bytes that the headers of a call may have together, its token among them; with more, it is refused."""
LOOKAHEAD_BYTES: Final = (1 << 16) - 1
"""The bytes that gRPC takes of a stream before anybody asks for its message; HTTP/2 begins with as many."""
HANDSHAKE_SECONDS: Final = 10
"""Seconds that a client has for the handshakes of TLS and HTTP/2."""
IDENTITY_ALONE: Final = 1
"""The set of compressions that has only "none" in it."""
MAPPED: Final = "::ffff:"
"""How an address of IPv6 begins that stands for one of IPv4."""
OPEN_FILES: Final = (Path("/proc/self/fd"), Path("/dev/fd"))


def options(settings: EdgeSettings, grace: float) -> list[tuple[str, int]]:
    """Options of the gRPC server; `grace` is what calls have, in seconds, once their connection is old."""
    milliseconds = {
        "max_connection_idle": settings.connection_idle,
        "server_handshake_timeout": HANDSHAKE_SECONDS,
        "keepalive_time": settings.keepalive,
        "keepalive_timeout": settings.keepalive,
        "http2.ping_timeout": settings.keepalive,
        # A margin, so that who pings just so often is within it.
        "http2.min_ping_interval_without_data": 0.9 * settings.client_pings,
    }
    if settings.connection_age:
        milliseconds["max_connection_age"] = settings.connection_age
        milliseconds["max_connection_age_grace"] = max(grace, 1.0)
    counts = {
        "max_receive_message_length": settings.max_request_bytes,
        "max_metadata_size": METADATA_BYTES,
        "absolute_max_metadata_size": METADATA_BYTES,
        "max_allowed_incoming_connections": settings.max_connections,
        "max_concurrent_streams": settings.connection_streams,
        "http2.lookahead_bytes": LOOKAHEAD_BYTES,
        "http2.bdp_probe": 0,  # It would let each stream send megabytes ahead.
        # Silence of the clients is asked about as long as there are calls, and as often as it takes.
        "keepalive_permit_without_calls": 1,
        "http2.max_pings_without_data": 0,
    }
    if not settings.compressed_requests:
        counts["compression_enabled_algorithms_bitset"] = IDENTITY_ALONE
    return [
        *((f"grpc.{name}", value) for name, value in counts.items()),
        *((f"grpc.{name}_ms", int(1000 * seconds)) for name, seconds in milliseconds.items()),
    ]


class Peer(NamedTuple):
    """The other end of a connection, as the system knows it."""

    host: str
    port: int

    @classmethod
    def of(cls, name: str) -> Peer:
        """The peer that gRPC calls "ipv4:127.0.0.1:4711" or "ipv6:%5B::1%5D:4711"; port 0 for others."""
        _, _, address = unquote(name).partition(":")
        host, _, port = address.rpartition(":")
        return cls(host.strip("[]").removeprefix(MAPPED), int(port)) if port.isdecimal() else cls(address, 0)


def hang_up(name: str) -> bool:
    """Close the connection of a peer of gRPC, with all its calls; False if there is none of that name.

    gRPC has no such call: it ends one that was given a message only once its client takes the message.
    """
    peer, found = Peer.of(name), False
    folder = next((path for path in OPEN_FILES if path.is_dir()), None)
    for entry in list(folder.iterdir()) if folder and peer.port else ():
        with suppress(OSError):
            found |= _shut(int(entry.name), peer)
    return found


def _shut(descriptor: int, peer: Peer) -> bool:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        host, port = connection.getpeername()[:2]
        # One socket may listen for both families, and sees addresses of the older one within the newer.
        if (host.removeprefix(MAPPED), port) != peer:
            return False
        connection.shutdown(socket.SHUT_RDWR)
        return True
