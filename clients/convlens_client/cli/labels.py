"""The true classes of photos, as options: from a file, or from the photos' names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from convlens.errors import InvalidArgument
from convlens_client.cli.options import Shared


@dataclass(frozen=True)
class Labelled(Shared):
    """The options that say what photos show; a command that takes them has both."""

    labels: Annotated[
        Path | None,
        typer.Option(help="File with a line NAME<tab>CLASS for each photo; class: index or label."),
    ] = None
    labels_from_names: Annotated[
        bool,
        typer.Option("--labels-from-names", help="The class index begins the file's name: 0281_tabby.jpg."),
    ] = False

    def classes(self, photos: Sequence[Path]) -> list[int]:
        """The class of each photo, from the file of labels or from its own name."""
        text = str(self.labels or "")
        if (self.labels is None) != self.labels_from_names:
            raise InvalidArgument.of("labels", text, "given, or --labels-from-names, one of the two")
        if self.labels is None:
            return [_leading_number(photo) for photo in photos]
        try:
            lines = [line.split("\t") for line in self.labels.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument.of("labels", text, f"a readable text file ({error})") from error
        if any(len(line) < 2 for line in lines):
            raise InvalidArgument.of("labels", text, "lines of NAME<tab>CLASS")
        known = {line[0]: line[1] for line in lines}
        missing = next((photo for photo in photos if photo.name not in known), None)
        if missing is not None:
            raise InvalidArgument.of("labels", text, f"a file with a line for {missing.name}")
        model = self.client.get_model(self.model)
        return [model.class_index(known[photo.name]) for photo in photos]


def _leading_number(photo: Path) -> int:
    match = re.match(r"\d+", photo.name)
    if match is None:
        raise InvalidArgument.of("photos", photo.name, "a name that begins with the class index")
    return int(match[0])
