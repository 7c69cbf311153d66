"""Names that stand for something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from convlens.errors import InvalidArgument

T = TypeVar("T")


def chosen(known: Mapping[str, T], name: str, field: str) -> T:
    """What `name` stands for. Raises InvalidArgument, which says what it may be."""
    if name not in known:
        raise InvalidArgument.of(field, name, f"one of {', '.join(known)}")
    return known[name]
