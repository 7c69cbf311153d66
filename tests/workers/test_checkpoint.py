"""Checkpoints in the artifact store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from convlens.errors import Unavailable
from convlens_workers.checkpoint import Origin, fingerprint, load_state, save_state
from convlens_workers.jobs import ArtifactStore
from convlens_workers.techniques.base import State

OPERATION = "0" * 32
ORIGIN = Origin(request="r", model="m", fingerprint=fingerprint(torch.device("cpu")))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path.as_uri())


def state(step: int) -> State:
    rng = torch.Generator().manual_seed(step)
    return {"image": torch.rand(1, 3, 4, 4), "rng": rng.get_state(), "step": torch.tensor(step)}


def path_of(tmp_path: Path, digest: str) -> Path:
    return tmp_path / "operations" / OPERATION / "checkpoints" / digest


def test_a_state_comes_back_bit_for_bit(store: ArtifactStore) -> None:
    saved = state(3)
    loaded = load_state(store, OPERATION, (save_state(store, OPERATION, saved, ORIGIN),), ORIGIN)
    assert loaded is not None
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_values_in_the_same_memory_are_stored_as_two(store: ArtifactStore) -> None:
    one = torch.arange(6.0).reshape(2, 3)
    saved = {"one": one, "again": one, "row": one[1], "turned": one.T, "none": torch.empty(0)}
    loaded = load_state(store, OPERATION, (save_state(store, OPERATION, saved, ORIGIN),), ORIGIN)
    assert loaded is not None
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_older_one(
    damage: str, store: ArtifactStore, tmp_path: Path
) -> None:
    older, newer = (save_state(store, OPERATION, state(step), ORIGIN) for step in (1, 2))
    path = path_of(tmp_path, newer)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + (b"" if damage == "truncated" else bytes([data[-1] ^ 1])))
    loaded = load_state(store, OPERATION, (newer, older), ORIGIN)
    assert loaded is not None
    assert loaded["step"] == 1


@pytest.mark.parametrize("field", ["request", "model", "fingerprint"])
def test_a_checkpoint_from_elsewhere_is_refused(field: str, store: ArtifactStore) -> None:
    digest = save_state(store, OPERATION, state(1), replace(ORIGIN, **{field: "other"}))
    assert load_state(store, OPERATION, (digest,), ORIGIN) is None


def test_no_checkpoint_is_a_new_start(store: ArtifactStore) -> None:
    assert load_state(store, OPERATION, (), ORIGIN) is None


def test_threads_are_part_of_the_fingerprint() -> None:
    threads, before = torch.get_num_threads(), fingerprint(torch.device("cpu"))
    try:
        torch.set_num_threads(threads + 1)
        assert fingerprint(torch.device("cpu")) != before
    finally:
        torch.set_num_threads(threads)


def test_a_store_that_cannot_write_says_so_and_keeps_what_it_has(
    store: ArtifactStore, tmp_path: Path
) -> None:
    digest = save_state(store, OPERATION, state(1), ORIGIN)
    folder = path_of(tmp_path, digest).parent
    folder.rename(folder.with_name("kept"))
    folder.touch()
    with pytest.raises(Unavailable, match="artifact store"):
        save_state(store, OPERATION, state(2), ORIGIN)
    folder.unlink()
    folder.with_name("kept").rename(folder)
    assert load_state(store, OPERATION, (digest,), ORIGIN) is not None
