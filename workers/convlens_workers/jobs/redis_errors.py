"""Redis's failures as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis import exceptions

from convlens.errors import ResourceExhausted, Unavailable

RETRY_AFTER: Final = 2.0


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raise Unavailable when Redis is away, ResourceExhausted when it is full; both say when to come back."""
    try:
        yield
    except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
        raise Unavailable(f"Redis is away: {error}", retry_after=RETRY_AFTER) from error
    except exceptions.OutOfMemoryError as error:
        raise ResourceExhausted("Redis has no memory left", retry_after=RETRY_AFTER) from error
    except exceptions.ReadOnlyError as error:
        raise Unavailable("Redis is read-only", retry_after=RETRY_AFTER) from error
