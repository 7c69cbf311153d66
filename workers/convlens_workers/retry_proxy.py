"""Objects whose methods may fail for a while, called again until they succeed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


class RetryProxy:
    """Forwards every method call to `inner` through `retry`, which calls again until the call succeeds.

    >>> class Counter:
    ...     def next(self, by): return by + 1
    >>> RetryProxy(Counter(), lambda call: call()).next(2)
    3
    """

    def __init__(self, inner: Any, retry: Callable[[Callable[[], Any]], Any]) -> None:
        self._inner = inner
        self._retry = retry

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._retry(partial(method, *args, **kwargs))

        return call
