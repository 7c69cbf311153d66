"""Bounded memory for sessions and models: the one that was unused the longest is dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Values that are built once, though many threads ask, and dropped when they weigh more than `capacity`.

    Args:
        capacity: the largest sum of weights; the newest value stays, whatever its weight.
        dropped: called with every value that is dropped or discarded.
    """

    def __init__(self, capacity: float, dropped: Callable[[V], None] | None = None) -> None:
        self._capacity = capacity
        self._dropped = dropped
        self._lock = Lock()
        self._values: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._building: dict[K, Lock] = {}

    def __len__(self) -> int:
        return len(self._values)

    @property
    def weight(self) -> float:
        """The sum of the weights of all values."""
        return sum(weight for _, weight in self._values.values())

    def get(self, key: K, build: Callable[[], tuple[V, float]]) -> V:
        """The value of `key`; `build` gives it with its weight if it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
            building = self._building.setdefault(key, Lock())
        with building:  # Others who ask for this key wait here; other keys go on.
            with self._lock:
                if key in self._values:
                    return self._values[key][0]
            try:
                value, weight = build()
                self._keep(key, value, weight)
            finally:
                with self._lock:
                    self._building.pop(key, None)
        return value

    def held(self) -> list[tuple[K, V, float]]:
        """Every key with its value and weight, the longest unused first."""
        with self._lock:
            return [(key, value, weight) for key, (value, weight) in self._values.items()]

    def discard(self, unwanted: Callable[[K], bool]) -> None:
        """Drop the values whose key is unwanted."""
        with self._lock:
            gone = [self._values.pop(key)[0] for key in list(self._values) if unwanted(key)]
        self._report(gone)

    def _keep(self, key: K, value: V, weight: float) -> None:
        gone = []
        with self._lock:
            self._values[key] = (value, weight)
            while len(self._values) > 1 and self.weight > self._capacity:
                gone.append(self._values.popitem(last=False)[1][0])
        self._report(gone)

    def _report(self, gone: list[V]) -> None:
        if self._dropped is not None:
            for value in gone:
                self._dropped(value)
