"""Putting a trained network into the package."""

from __future__ import annotations

from pathlib import Path

from support.networks import random_module, save_weights

from convlens_models.importing.embed import embed
from convlens_models.repository import ModelRepository


def test_embedding_twice_leaves_one_version(tmp_path: Path):
    save_weights(random_module("patterns", 2), tmp_path / "weights.safetensors")
    (tmp_path / "labels.txt").write_text("round\nsquare\n")
    first = embed(tmp_path, tmp_path / "embedded")
    second = embed(tmp_path, tmp_path / "embedded")
    assert first == second
    assert (first.name, first.version, first.labels) == ("patterns", 1, ("round", "square"))
    stored = ModelRepository(tmp_path / "embedded").get("patterns")
    assert stored.manifest == first
    assert stored.forward().graph.node
    assert [path.name for path in (tmp_path / "embedded" / "patterns").iterdir()] == ["1"]
