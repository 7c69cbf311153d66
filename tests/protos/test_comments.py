"""The comments that help texts are made of are those of the protos."""

from __future__ import annotations

import sys
from pathlib import Path

PROTOS = Path(__file__).resolve().parents[2] / "protos"


def test_the_comments_are_those_of_the_protos(tmp_path, monkeypatch):
    """As `make proto` writes them."""
    monkeypatch.setattr(sys, "path", [str(PROTOS), *sys.path])
    import comments
    import googleapis

    googleapis.main(tmp_path / "googleapis")
    comments.main(tmp_path / "googleapis", tmp_path / "comments.json")
    written = (tmp_path / "comments.json").read_text()
    assert written == comments.TARGET.read_text(), "run `make proto`"
