"""The servers that a substitute attack may query: those that the operator has named, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from convlens.errors import InvalidArgument

SELF: Final = "self"
"""Stands for the server that jobs are sent to, which is meant where a request names none."""


def address_of(victim: str, victims: Mapping[str, str]) -> str:
    """Where the victim of a request is, given those of CONVLENS_VICTIMS.

    Raises:
        InvalidArgument: none of them; tells their names.
    """
    name = victim or SELF
    if name not in victims:
        names = ", ".join(sorted(victims)) or "there is none"
        allowed = f"a victim that the operator has allowed with CONVLENS_VICTIMS ({names})"
        meant = f"; empty means {SELF!r}" if not victim else ""
        raise InvalidArgument.of("substitute.victim", victim, allowed + meant)
    return victims[name]
