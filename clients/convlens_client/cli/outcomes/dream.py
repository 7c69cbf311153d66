"""A dream: which channels were amplified, where they were chosen by what the picture excites."""

from __future__ import annotations

from convlens_client.cli.common import table
from convlens_client.client import Operation


def tell(operation: Operation) -> None:
    """Prints the channels that were chosen of each layer, and the mean of each over the start picture."""
    if operation.report is None:
        return
    rows = (
        (each.layer, channel, f"{mean:.4g}")
        for each in operation.report.layers
        for channel, mean in zip(each.channels, each.means, strict=True)
    )
    table(("layer", " channel", " mean at the start"), rows)
