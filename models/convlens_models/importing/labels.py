"""Reads a file of class names."""

from __future__ import annotations

from pathlib import Path

from convlens.errors import InvalidArgument


def load_labels(path: Path | None, classes: int) -> tuple[str, ...]:
    """Names of the classes in index order: one a line, or a TSV file's last column; None makes "class 0", ...

    Raises:
        InvalidArgument: unreadable, or not one name a class.
    """
    if path is None:
        return tuple(f"class {index}" for index in range(classes))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument.of("labels", str(path), f"a readable UTF-8 file ({error})") from error
    names = tuple(line.rsplit("\t", 1)[-1].strip() for line in lines if line.strip())
    if len(names) != classes:
        allowed = f"one for each of the network's {classes} classes"
        raise InvalidArgument.of("labels", f"{len(names)} names in {path.name}", allowed)
    return names
