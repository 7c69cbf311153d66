"""Turns the failures of Redis into errors of ConvLens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis import exceptions

from convlens.errors import ResourceExhausted, Unavailable

RETRY_AFTER: Final = 2.0
AWAY: Final = (Unavailable, ResourceExhausted)
"""What `redis_errors` raises: errors after which the same call may succeed in a while."""


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raise Unavailable when Redis is away, ResourceExhausted when it is full; both say when to come back."""
    try:
        yield
    except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
        raise Unavailable(f"Redis is away: {error}", retry_after=RETRY_AFTER) from error
    except exceptions.ReadOnlyError as error:
        raise Unavailable("Redis is read-only", retry_after=RETRY_AFTER) from error
    except exceptions.ResponseError as error:
        if is_full(error):
            raise ResourceExhausted("Redis has no memory left", retry_after=RETRY_AFTER) from error
        if "MISCONF" in str(error):
            raise Unavailable("Redis cannot write to its disk", retry_after=RETRY_AFTER) from error
        raise


def is_full(error: exceptions.ResponseError) -> bool:
    """Whether Redis is at `maxmemory`; from within a script it says so in an error of the script's."""
    return isinstance(error, exceptions.OutOfMemoryError) or "OOM command not allowed" in str(error)
