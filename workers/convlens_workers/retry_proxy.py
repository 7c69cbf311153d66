"""Things that may be away for a while, used as if they never were."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


class RetryProxy:
    """`inner`, each of whose methods is called by `patiently`, which tries again until it works.

    >>> class Counter:
    ...     def next(self, by): return by + 1
    >>> RetryProxy(Counter(), lambda call: call()).next(2)
    3
    """

    def __init__(self, inner: Any, patiently: Callable[[Callable[[], Any]], Any]) -> None:
        self._inner = inner
        self._patiently = patiently

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._patiently(partial(method, *args, **kwargs))

        return call
