"""Nearest neighbours through a hierarchical navigable small world graph: a kept index instead of every row.

Malkov, Yashunin: Efficient and robust approximate nearest neighbor search using HNSW graphs (2018),
arXiv:1603.09320; the index is usearch's. It lies in a folder of this server, is mapped rather than loaded,
and is built again when the collection's rows are others. When it is built its recall is measured, and the
search widened until that is good enough.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np

from convlens.errors import FailedPrecondition
from convlens.v1 import collection_pb2
from convlens_server.backends.base import F32
from convlens_server.collections.features import Table
from convlens_server.collections.nearest import Near, closest, nearest_to_each

RECALL: Final = 0.95
"""The share of the exact neighbours that a search must find on average."""
AT: Final = 10
"""The number of neighbours over which the recall is measured."""
PROBES: Final = 100
"""The number of rows whose neighbours are searched to measure it."""
EXPANSIONS: Final = (64, 128, 256, 512, 1024)
"""Widths of the search, in candidates, from which the first that is good enough is taken."""
KEPT: Final = 32
"""The number of indexes that are kept on disk."""
METRICS: Final[dict[int, str]] = {collection_pb2.METRIC_COSINE: "cos", collection_pb2.METRIC_L2: "l2sq"}

_building: Final = Lock()


def approximate(folder: Path, table: Table, query: F32, k: int, metric: int) -> tuple[Near, float]:
    """Some `k` near rows, and the share of the exact 10 nearest that such a search finds, on 100 rows.

    Raises:
        FailedPrecondition: usearch is not installed.
    """
    path = folder / f"{table.key}-{METRICS[metric]}.usearch"
    with _building:
        if not path.with_suffix(".json").exists():
            _build(path, table, metric)
        facts = json.loads(path.with_suffix(".json").read_text())
        index = _library().Index.restore(str(path), view=True)
    index.expansion_search = max(facts["expansion"], k)
    return _search(index, query, k, metric), facts["recall"]


def _build(path: Path, table: Table, metric: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _make_room(path.parent)
    count = len(table.order)
    step = max(1, count // PROBES)
    probes: list[F32] = []
    index = None
    for positions, features in table.blocks():
        if index is None:
            index = _library().Index(ndim=features.values.shape[1], metric=METRICS[metric], dtype="f32")
        index.add(positions, features.values, threads=1)
        probes.extend(features.values[(positions % step == 0) & (positions // step < PROBES)])
    expansion, recall = _widened(index, table, probes, metric)
    _write(path, lambda target: index.save(str(target)))  # type: ignore[union-attr]
    facts = json.dumps({"expansion": expansion, "recall": recall})
    _write(path.with_suffix(".json"), lambda target: target.write_text(facts))


def _widened(index: Any, table: Table, probes: Sequence[F32], metric: int) -> tuple[int, float]:
    """The first width of search whose recall is good enough, and its recall."""
    exact = [set(near.positions) for near in nearest_to_each(table, probes, AT, metric)]
    expansion, recall = EXPANSIONS[0], 0.0
    for expansion in EXPANSIONS:
        index.expansion_search = expansion
        shares = [
            len(rows.intersection(_search(index, probe, AT, metric).positions)) / len(rows)
            for probe, rows in zip(probes, exact, strict=True)
        ]
        recall = float(np.mean(shares))
        if recall >= RECALL:
            break
    return expansion, recall


def _search(index: Any, query: F32, k: int, metric: int) -> Near:
    matches = index.search(query, k)
    distances = np.sqrt(matches.distances) if metric == collection_pb2.METRIC_L2 else matches.distances
    return closest(matches.keys.astype(np.int64), np.asarray(distances, np.float32), k)


def _write(path: Path, save: Any) -> None:
    """Whole or not at all, whoever else writes the same."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    os.close(handle)
    save(Path(name))
    Path(name).replace(path)


def _make_room(folder: Path) -> None:
    """Drop the indexes that were built first."""
    oldest = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in oldest[: max(0, len(oldest) - KEPT + 1)]:
        path.unlink(missing_ok=True)
        path.with_suffix(".usearch").unlink(missing_ok=True)


def _library() -> Any:
    try:
        from usearch import index  # noqa: PLC0415 (the server starts without it)
    except ImportError as error:
        text = "approximate search needs usearch: pip install 'convlens[search]'"
        raise FailedPrecondition(text, reason="NOT_INSTALLED") from error
    return index
