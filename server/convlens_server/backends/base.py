"""The protocol by which quick techniques use a network, whatever runs it; workers have one of their own."""

from __future__ import annotations

from convlens_models.backend import F32, F64, Backend

__all__ = ["F32", "F64", "Backend"]
