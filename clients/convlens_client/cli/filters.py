"""`convlens filters`: the kernels of a layer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from convlens_client import rendering
from convlens_client.cli import completion
from convlens_client.cli.activations import report
from convlens_client.cli.common import err, write
from convlens_client.cli.options import Shared, command


@command("out", "model", "json")
def filters(
    given: Shared,
    *,
    layer: Annotated[
        str,
        typer.Option(
            autocompletion=completion.layers, help="Layer with weights; default: the first convolution."
        ),
    ] = "",
    **parameters: Any,
) -> None:
    """Draw the filters of a layer; beyond the first they are hard to read.

    Example: convlens filters --out filters.png
    """
    weights = given.client.filters(layer, **parameters)
    report({layer or "first convolution": weights}, given.json)
    if weights.shape[1] != 3:
        err.print("inputs of this layer have no colours: one grey tile a channel, hard to read")
    write(given.file(f"{layer or 'first'}-filters.png"), weights, rendering.kernels(weights))
