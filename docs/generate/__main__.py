"""``python -m docs.generate``: write the generated pages into `docs/`."""

from __future__ import annotations

from pathlib import Path

from docs.generate import pages

DOCS = Path(__file__).resolve().parents[1]

for name, text in pages().items():
    path = DOCS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
