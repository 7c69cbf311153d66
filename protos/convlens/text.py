"""Text of others on its way to a terminal or a log."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with what is not printable (line ends, escapes, changes of direction) as Python escapes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
