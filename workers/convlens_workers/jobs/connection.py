"""Connects servers and workers to Redis.

Who is told by Redis that it is a replica now connects anew, once a call: after a failover the name in
CONVLENS_REDIS leads to another server, while connections that are open stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from redis import Redis, asyncio, exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import AbstractBackoff, ExponentialBackoff, NoBackoff
from redis.retry import Retry

from convlens_workers.jobs.redis_errors import moved

CONNECTIONS: Final = 16
"""Connections of one client, shared by thousands of calls."""
POOL_TIMEOUT: Final = 10.0
"""Seconds that a call waits for a free connection."""
SOCKET_TIMEOUT: Final = 2.0
"""Seconds that Redis may take to connect or to answer."""


class _ConnectingAnew:
    """Mixed into redis's retries: a refusal that means another server is tried again by a new connection.

    Redis has done nothing of a command that it refuses so, so that any may be sent again.
    """

    def __init__(self, backoff: AbstractBackoff, retries: int) -> None:
        lost = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
        super().__init__(backoff, retries, (*lost, exceptions.ResponseError))  # type: ignore[call-arg]

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """As redis's own, which closes the connection before it calls again."""

        def again(error: Exception) -> bool:
            if isinstance(error, exceptions.ResponseError) and not moved(error):
                return False
            return is_retryable is None or is_retryable(error)

        return super().call_with_retry(do, fail, again, with_failure_count)  # type: ignore[misc]


class _Retry(_ConnectingAnew, Retry):
    pass


class _AsyncRetry(_ConnectingAnew, AsyncRetry):
    pass


def connect(url: str, *, socket_timeout: float = SOCKET_TIMEOUT) -> Any:
    """A client for all tasks of one event loop, with so long for answers; connects at the first call."""
    pool = asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=POOL_TIMEOUT,
        socket_connect_timeout=SOCKET_TIMEOUT,
        socket_timeout=socket_timeout,
        retry=_AsyncRetry(ExponentialBackoff(cap=0.25, base=0.02), 1),  # Pooled connections outlive a Redis.
    )
    return asyncio.Redis.from_pool(pool)


def connect_worker(url: str, *, socket_connect_timeout: float, socket_timeout: float | None = None) -> Redis:
    """A client for the threads of a worker; connects at the first call."""
    return Redis.from_url(
        url,
        socket_connect_timeout=socket_connect_timeout,
        socket_timeout=socket_timeout,
        retry=_Retry(NoBackoff(), 1),  # Pooled connections outlive a Redis.
    )
