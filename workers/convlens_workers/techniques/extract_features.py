"""Feature vectors of a collection's images, shard after shard, for its searches and maps."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from convlens.v1 import job_pb2
from convlens_workers.collections import Features, FeatureSet
from convlens_workers.collections.pooling import pool
from convlens_workers.techniques.base import Results, State, Step, Task

BATCH: Final = 16
"""Images that go through the network at once."""
PARTS: Final = ("values", "positions", "width")
"""Fields of `Features`."""

Params = job_pb2.ExtractFeatures
Rows = dict[FeatureSet, Features]


def extract_features(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """Pool the layers' values for every image of the shards that nobody has done yet.

    Any number of jobs may go through the same shards: each takes the next one that is neither done nor
    claimed, and part 0 in the end also those whose claimant has not finished. Features lie in the
    collection's files, so that what is done stays done, whatever becomes of the job.

    The state holds the number of the shard in hand and the rows that it has so far.

    Returns:
        "images", int64 (1): images of all shards.

    Raises:
        NotFound: the collection was deleted meanwhile.
    """
    params, files = task.params, task.collections
    sets = feature_sets(task)
    shards = {name: files.shard(params.collection, name) for name in params.shards}
    total = sum(map(len, shards.values()))
    last: Step | None = None
    while True:
        done = set.intersection(*(set(files.finished(params.collection, which)) for which in sets))
        before = sum(len(images) for name, images in shards.items() if name in done)
        missing = [name for name in shards if name not in done]
        shard, rows = _resume(task, sets, state, missing) or (_next(task, sets, missing), {})
        if shard is None:
            break
        for rows, image in _growing(task, sets, shards[shard], rows):  # noqa: B020 (it goes on from what is there)
            state = {"shard": torch.tensor(list(shards).index(shard)), **_state(sets, rows)}
            yield (last := Step(before + len(rows[sets[0]].values), total, {}, image, state))
        for which, features in rows.items():
            files.put_features(params.collection, which, shard, features)
        files.release(params.collection, sets, shard)
        state = None
    if last is not None and last.number < before:
        yield replace(last, number=before)  # Others have finished theirs meanwhile.
    return {"images": torch.tensor([total])}


def feature_sets(task: Task[Params]) -> list[FeatureSet]:
    """What is to be extracted, each set once."""
    asked = [(layer, pooling) for layer in task.params.layers for pooling in task.params.poolings]
    return [FeatureSet(task.manifest.digest, layer, pooling) for layer, pooling in dict.fromkeys(asked)]


def _next(task: Task[Params], sets: list[FeatureSet], missing: list[str]) -> str | None:
    """The next shard to do, if there is one for this part."""
    for name in missing:
        if task.collections.claim(task.params.collection, sets, name):
            return name
    return missing[0] if missing and task.params.part == 0 else None


def _resume(
    task: Task[Params], sets: list[FeatureSet], state: State | None, missing: list[str]
) -> tuple[str, Rows] | None:
    """The shard that the state was in, with its rows, if nobody has done it meanwhile."""
    if state is None or (shard := task.params.shards[int(state["shard"])]) not in missing:
        return None
    rows: Rows = {}
    for number, which in enumerate(sets):
        values, positions, width = (state[f"{number}.{part}"].numpy() for part in PARTS)
        rows[which] = Features(values, positions, int(width))
    return shard, rows


def _state(sets: list[FeatureSet], rows: Rows) -> State:
    """The rows as tensors."""
    return {
        f"{number}.{part}": torch.as_tensor(getattr(rows[which], part))
        for number, which in enumerate(sets)
        for part in PARTS
    }


def _growing(
    task: Task[Params], sets: list[FeatureSet], images: list[str], rows: Rows
) -> Iterator[tuple[Rows, Tensor]]:
    """The rows of a shard's images, some more each time, and the last image; goes on from `rows`."""
    start = len(rows[sets[0]].values) if rows else 0
    for first in range(start, len(images), BATCH):
        inputs = task.collection_images(images[first : first + BATCH])
        batch = torch.from_numpy(inputs).to(task.device)
        with torch.no_grad():
            taps = task.network.taps(batch, task.params.layers)
        values = {layer: value.float().cpu().numpy() for layer, value in taps.items()}
        more = {which: pool(values[which.layer], which.pooling) for which in sets}
        rows = {which: rows[which].followed_by(more[which]) for which in sets} if rows else more
        yield rows, batch[-1:]
