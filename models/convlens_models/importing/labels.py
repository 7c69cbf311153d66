"""Reads a file of class names, and of their identifiers in WordNet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from convlens.errors import InvalidArgument

WORDNET: Final = re.compile(r"[nvars]\d{8}")
"""How identifiers look: the part of speech, and the offset in WordNet 3.0's files."""


IMAGENET: Final = Path(__file__).parent.parent / "imagenet.tsv"
"""The 1,000 classes of ILSVRC 2012 in its networks' order: the synset in WordNet 3.0, and its first word."""


class Classes(NamedTuple):
    """What classes are called, in index order; `class_ids` has "" for those without, or none at all."""

    labels: tuple[str, ...]
    class_ids: tuple[str, ...] = ()


def load_classes(path: Path | None, classes: int) -> Classes:
    """Names of the classes: one a line, or a TSV file's last column; None makes "class 0", ...

    The path "imagenet", where there is no such file, stands for `IMAGENET`.

    Of the other columns, the identifier is the first that looks like one of WordNet.

    Raises:
        InvalidArgument: unreadable, or not one name a class.
    """
    if path is None:
        return Classes(tuple(f"class {index}" for index in range(classes)))
    if str(path) == "imagenet" and not path.exists():
        path = IMAGENET
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument.of("labels", str(path), f"a readable UTF-8 file ({error})") from error
    rows = [[cell.strip() for cell in line.split("\t")] for line in lines if line.strip()]
    if len(rows) != classes:
        allowed = f"one for each of the network's {classes} classes"
        raise InvalidArgument.of("labels", f"{len(rows)} names in {path.name}", allowed)
    ids = tuple(next(filter(WORDNET.fullmatch, row[:-1]), "") for row in rows)
    return Classes(tuple(row[-1] for row in rows), ids if any(ids) else ())
