"""The seconds that a unit of work takes, learned from what was measured."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

NEWEST: Final = 0.1
"""Least weight of the latest measurement in the mean of the logarithms."""
OUTLIER: Final = math.log(4)
"""The logarithm of how much slower than expected a measurement counts at most: a first call builds sessions,
and somebody else may take the machine for a while."""
KEYS: Final = 1000
"""The number of keys that are remembered."""


ALIKE: Final = 3.0
"""Times as long as another request may take that looks like it, if nobody need look at it more closely."""
FORGOTTEN: Final = 1.02
"""The factor by which the extremes of earlier requests come closer with each further one."""


class Paces:
    """Seconds a unit by key; where a key is new, those of all keys together.

    Args:
        prior: seconds a unit before anything was measured; None: not known.
    """

    def __init__(self, prior: float | None = None) -> None:
        self._known: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._all = (None if prior is None else math.log(prior), 0)

    def of(self, key: str) -> float | None:
        """Seconds that a unit is expected to take, if anything tells."""
        mean, _ = self._known.get(key, self._all)
        return None if mean is None else math.exp(mean)

    @property
    def known(self) -> int:
        """The number of keys of which something was measured."""
        return len(self._known)

    def learn(self, key: str, units: float, seconds: float) -> None:
        """Take in that so many units took so many seconds."""
        if not (units > 0 and seconds > 0):
            return
        measured = math.log(seconds / units)
        self._known[key] = _moved(self._known.get(key, (self._all[0], 0)), measured)
        self._known.move_to_end(key)
        if len(self._known) > KEYS:
            self._known.popitem(last=False)
        if self._all[0] is not None:
            self._all = _moved(self._all, measured)


class Likes:
    """The seconds that requests which look alike from outside are found to take, where these are alike."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def of(self, key: Hashable) -> float | None:
        """The least seconds of late, if the most are not many times as much."""
        least, most = self._known.get(key, (0.0, math.inf))
        return least if most <= ALIKE * least else None

    def learn(self, key: Hashable, seconds: float) -> None:
        """Take in that such a request is to take so many seconds."""
        least, most = self._known.get(key, (seconds, seconds))
        self._known[key] = min(seconds, least * FORGOTTEN), max(seconds, most / FORGOTTEN)
        self._known.move_to_end(key)
        if len(self._known) > KEYS:
            self._known.popitem(last=False)


def _moved(before: tuple[float | None, int], measured: float) -> tuple[float, int]:
    """A mean and how many it is of, with one more; what is slower than expected counts up to a bound."""
    mean, count = before
    if mean is None:
        return measured, 1
    return mean + max(NEWEST, 1 / (count + 1)) * min(measured - mean, OUTLIER), count + 1
