"""The model card's figures, and the table of them in the documentation.

``python -m convlens_models.patterns.card card.json PAGE.md`` writes the table between the page's two markers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- results: generated from card.json -->", "<!-- end of results -->"


@dataclass(frozen=True)
class ClassResult:
    """How many held-out images were right, and the class that the wrong ones were most often taken for."""

    right: int
    taken_for: str


@dataclass(frozen=True)
class Card:
    """One training run and what came of it, ``minutes`` of wall time included."""

    accuracy: float
    images_per_class: int
    parameters: int
    seed: int
    steps: int
    images_seen: int
    minutes: float
    classes: dict[str, ClassResult]

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Card:
        """What ``write`` wrote."""
        fields: dict[str, Any] = json.loads(path.read_text())
        fields["classes"] = {name: ClassResult(**result) for name, result in fields["classes"].items()}
        return cls(**fields)

    def table(self) -> str:
        """Markdown: the figures of the whole, then one row a class."""
        rows = [
            f"Held-out accuracy **{self.accuracy:.2%}** ({self.images_per_class} images of each of"
            f" {len(self.classes)} classes); {self.parameters:,} parameters; seed {self.seed},"
            f" {self.steps:,} steps, {self.images_seen:,} images, {self.minutes:.0f} minutes.",
            "",
            "| class | right of " + str(self.images_per_class) + " | most often taken for |",
            "|---|---:|---|",
        ]
        rows += [f"| {name} | {result.right} | {result.taken_for} |" for name, result in self.classes.items()]
        return "\n".join(rows)


def rewrite(page: str, card: Card) -> str:
    """The page with the card's table between its markers."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{card.table()}\n{END}{after}"


if __name__ == "__main__":
    card_path, page_path = map(Path, sys.argv[1:])
    page_path.write_text(rewrite(page_path.read_text(), Card.read(card_path)))
