"""Settings of the server's edge: how much of its memory connections, requests and replies may take."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings

from convlens_workers.jobs.settings import SOURCES


class EdgeSettings(BaseSettings):
    """What clients may hold of a server process, whatever they do."""

    model_config = SOURCES

    max_connections: int = Field(default=256, ge=1, le=65536)
    """Number of connections that the server takes at the same time; a further one is closed at once."""
    connection_streams: int = Field(default=100, ge=1, le=65536)
    """Number of calls that one connection may have under way; gRPC's clients let further ones wait for a
    place."""
    connection_idle: float = Field(default=600.0, ge=1)
    """Seconds after which a connection without a call is closed; clients connect again when they call."""
    connection_age: float = Field(default=0.0, ge=0)
    """Seconds after which the server ends a connection, so that clients look its name up again and find new
    servers; 0 never does."""
    keepalive: float = Field(default=20.0, ge=1)
    """Seconds without a sign of a client after which the server asks whether it is still there, and as many
    that it waits for the answer: then its calls end."""
    client_pings: float = Field(default=5.0, ge=0.1)
    """Least seconds between two keepalive pings that a client may send, with or without a call under way; one
    that keeps pinging sooner is cut off."""
    max_calls: int = Field(default=4096, ge=1)
    """Number of calls that may be under way, of all kinds together; more are refused before their request is
    read, with RESOURCE_EXHAUSTED, reason CALLS. A caller leaves as many to others as it has, so that one
    alone has half of them."""
    max_request_bytes: int = Field(default=64 << 20, ge=1 << 16)
    """Size in bytes of the largest request message."""
    upload_megabytes: int = Field(default=2048, ge=1)
    """MiB that requests may hold together, from their first byte to the end of their calls; at least four
    times `max_request_bytes`. A message counts twice, while it is arriving as the largest that may come; it
    waits for room, and is refused with RESOURCE_EXHAUSTED, reason UPLOAD_BYTES, if none comes. A caller
    leaves as much to others as it has, so that one alone has half of it; the last place goes to who has had
    little lately."""
    upload_seconds: float = Field(default=60.0, gt=0)
    """Seconds within which a message must have arrived, once the server has begun to read it, and within
    which the next one of a stream must follow; else, and earlier where others need its room who have had much
    less lately, the call ends with UNAVAILABLE, reason UPLOAD_STALLED."""
    compressed_requests: bool = True
    """Whether requests may be compressed, by callers who are known: nothing is expanded before, nor beyond
    `max_request_bytes`."""
    reply_megabytes: int = Field(default=1024, ge=1)
    """MiB that replies may hold together until their readers have taken them; a call whose reply finds no
    room is refused with RESOURCE_EXHAUSTED, reason REPLY_BYTES. A caller leaves as much to others as it has;
    with a single call it may hold seven eighths, and all of it while nobody else has any."""
    reader_seconds: float = Field(default=10.0, gt=0)
    """Seconds, and one more for each MiB, within which a reader must take a message of a reply; then the call
    ends with the reason SLOW_READER. Who takes nothing for as long again loses the connection."""
