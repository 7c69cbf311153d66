"""Markdown that MkDocs and GitHub show alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

ARXIV = re.compile(r"\barXiv:(\d{4}\.\d{4,5})")
DOI = re.compile(r"\bdoi:(10\.\d+/[\w.]*\w)")


def titled(title: str, source: str) -> str:
    """The heading of a page, and a comment that says what the page is generated from."""
    return f"# {title}\n\n<!-- Generated from {source} by `make docs`: edit that, not this page. -->\n"


def prose(text: str) -> str:
    """Plain text as Markdown on one line: code stays as it is, papers become links."""
    pieces = " ".join(text.split()).split("`")
    pieces[::2] = [_escaped(piece) for piece in pieces[::2]]
    return "`".join(pieces)


def first_sentence(text: str) -> str:
    """The first sentence of a comment, on one line."""
    return re.split(r"(?<=[a-z)`]\.)\s+(?=[A-Z\"`])", " ".join(text.split()), maxsplit=1)[0]


def code(text: object) -> str:
    """Text in the typeface of code."""
    return f"`{text}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, or nothing where it would have no rows."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) if len(lines) > 2 else ""


def wide_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose rows become blocks on a narrow screen, as `docs/style.css` says."""
    text = table(head, rows)
    return f'<div class="wide" markdown>\n\n{text}\n</div>\n' if text else ""


def anchor(heading: str) -> str:
    """The fragment by which a heading is linked."""
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


def number(value: float) -> str:
    """A number as one would write it: 8/255, 2^53 - 1, 0.05, 1e+17."""
    if value == 2**53 - 1:
        return "2^53 - 1"
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    of_255 = value * 255
    return (
        f"{of_255:.0f}/255" if abs(of_255 - round(of_255)) < 1e-9 and len(repr(value)) > 8 else f"{value:g}"
    )


def _escaped(text: str) -> str:
    for character, shown in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("*", "\\*")):
        text = text.replace(character, shown)
    text = ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return DOI.sub(r"[doi:\1](https://doi.org/\1)", text)
