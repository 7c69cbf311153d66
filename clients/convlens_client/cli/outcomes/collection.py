"""Features of a collection: how many images have them."""

from __future__ import annotations

from convlens_client.cli.common import out
from convlens_client.client import Operation


def tell(operation: Operation) -> None:
    """Prints the number of images."""
    (count,) = operation.artifact("images").tolist()
    out.print(f"features of {count} images")
