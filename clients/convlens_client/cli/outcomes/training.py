"""A style network that was trained: what it is called, and how it is used."""

from __future__ import annotations

from convlens_client.cli.common import out
from convlens_client.client import Operation


def tell(operation: Operation) -> None:
    """Prints the command that paints with it."""
    model = operation.report.model
    name = model.partition("/")[0]
    out.print(f"trained {model}: convlens stylise PHOTO --model {name} --out painted.png")
