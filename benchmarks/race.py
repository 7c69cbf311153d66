"""Interleaved timing: contestants take turns, so that what else the machine does slows all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]


class Row(NamedTuple):
    """One line of the table: the ratio of medians, quartiles of the ratios round by round, and the aim."""

    what: str
    ratio: float
    low: float
    high: float
    aim: str

    @classmethod
    def of(cls, what: str, one: Times, other: Times, aim: str) -> Row:
        """`one` over `other`."""
        low, high = np.percentile(one / other, [25, 75])
        return cls(what, float(np.median(one) / np.median(other)), float(low), float(high), aim)


def race(contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3) -> dict[str, Times]:
    """Seconds of every call, {name: [rounds]}; each round begins with another contestant."""
    names = list(contestants)
    for name in names * warmup:
        contestants[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            begun = time.perf_counter()
            contestants[name]()
            times[name].append(time.perf_counter() - begun)
    return {name: np.array(seconds) for name, seconds in times.items()}


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| ratio of medians | measured | quartiles of the rounds | aim |", "|---|---|---|---|"]
    lines += [f"| {r.what} | {r.ratio:.2f} | {r.low:.2f} to {r.high:.2f} | {r.aim} |" for r in rows]
    return "\n".join(lines)
