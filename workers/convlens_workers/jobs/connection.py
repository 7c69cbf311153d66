"""Connects the job plane of a server to Redis."""

from __future__ import annotations

from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

CONNECTIONS: Final = 16
"""Connections of one client, shared by thousands of calls."""
POOL_TIMEOUT: Final = 10.0
"""Seconds that a call waits for a free connection."""
SOCKET_TIMEOUT: Final = 2.0
"""Seconds that Redis may take to connect or to answer."""


def connect(url: str) -> Any:
    """A client for all tasks of one event loop; connects at the first call."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=POOL_TIMEOUT,
        socket_connect_timeout=SOCKET_TIMEOUT,
        socket_timeout=SOCKET_TIMEOUT,
        retry=Retry(ExponentialBackoff(cap=0.25, base=0.02), 1),  # Pooled connections outlive a Redis.
    )
    return Redis.from_pool(pool)
