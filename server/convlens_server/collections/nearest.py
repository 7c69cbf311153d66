"""The nearest neighbours of a vector, exactly: every row is compared, a shard at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import numpy as np

from convlens.v1 import collection_pb2
from convlens_server.backends.base import F32
from convlens_server.collections.features import Positions, Table


class Near(NamedTuple):
    """Rows by their distance, nearest first, equals in the order of the collection."""

    positions: Positions
    distances: F32


def cosine(rows: F32, query: F32) -> F32:
    """1 - cosine of the angle between each row (N, D) and the query (D,), in [0, 2]; 1 where one is zero."""
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    products = rows @ query
    return np.asarray(np.clip(1 - products / np.where(norms > 0, norms, np.inf), 0, 2), np.float32)


def euclidean(rows: F32, query: F32) -> F32:
    """Euclidean distance of each row (N, D) from the query (D,)."""
    return np.asarray(np.linalg.norm(rows - query, axis=1), np.float32)


DISTANCES: Final[Mapping[int, Callable[[F32, F32], F32]]] = {
    collection_pb2.METRIC_COSINE: cosine,
    collection_pb2.METRIC_L2: euclidean,
}


def nearest(table: Table, query: F32, k: int, metric: int) -> Near:
    """The `k` rows that are nearest to the query (D,)."""
    (near,) = nearest_to_each(table, [query], k, metric)
    return near


def nearest_to_each(table: Table, queries: Iterable[F32], k: int, metric: int) -> list[Near]:
    """The `k` rows that are nearest to each of the queries (D,), in one pass over the table."""
    queries = list(queries)
    best = [Near(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(queries)
    for positions, features in table.blocks():
        for i, query in enumerate(queries):
            distances = np.concatenate([best[i].distances, DISTANCES[metric](features.values, query)])
            best[i] = closest(np.concatenate([best[i].positions, positions]), distances, k)
    return best


def closest(positions: Positions, distances: F32, k: int) -> Near:
    """The `k` smallest distances, ascending; equals by position."""
    order = np.lexsort((positions, distances))[:k]
    return Near(positions[order], distances[order])
