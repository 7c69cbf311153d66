"""Connections of a server to Redis."""

from __future__ import annotations

from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

CONNECTIONS: Final = 16
"""Of one client; thousands of calls share them."""
PATIENCE: Final = 10.0
"""Seconds that a call waits for one of them."""
ANSWER: Final = 2.0
"""Seconds that Redis may take."""


def connect(url: str) -> Any:
    """A client for all tasks of one event loop; connects at the first call."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=PATIENCE,
        socket_connect_timeout=ANSWER,
        socket_timeout=ANSWER,
        retry=Retry(ExponentialBackoff(cap=0.25, base=0.02), 1),  # Pooled connections outlive a Redis.
    )
    return Redis.from_pool(pool)
