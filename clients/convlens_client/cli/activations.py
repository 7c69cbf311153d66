"""`convlens activations`: what each channel of a layer responds to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens_client import rendering
from convlens_client.cli import completion
from convlens_client.cli.common import Image, emit, out, table, write
from convlens_client.cli.options import Shared, command
from convlens_client.rendering import Scale


@command("out", "model", "resize", "frame", "json")
def activations(
    given: Shared,
    image: Image,
    *,
    layer: Annotated[
        list[str],
        typer.Option(autocompletion=completion.layers, help="Layer; repeat for several.", show_default=False),
    ],
    scale: Annotated[Scale, typer.Option(help="Scale of the grey tiles.")] = "channel",
    channel: Annotated[int | None, typer.Option(help="Only this channel, from 0.")] = None,
    top: Annotated[int | None, typer.Option(help="Only so many channels, the strongest first.")] = None,
    **parameters: Any,
) -> None:
    """Draw what each channel of a layer responds to.

    Example: convlens activations cat.jpg --layer features.relu2 --out maps.png
    """
    if given.out is not None and len(layer) > 1:
        raise InvalidArgument.of("layer", layer, "a single one with --out")
    values = given.client.activations(given.picture(image), layer, channel=channel, top=top, **parameters)
    strongest = {name: values.pop(f"{name}.channels")[0].tolist() for name in layer if top is not None}
    report({name: value[0] for name, value in values.items()}, given.json, strongest)
    value = values[layer[0]][0]
    write(given.file(f"{image.stem}-{layer[0]}.png"), value, rendering.feature_maps(value, scale))


def report(
    values: dict[str, NDArray[Any]], json: bool, channels: Mapping[str, list[int]] | None = None
) -> None:
    """Tells shape and range of each layer's values, and which `channels` they are where some were chosen."""
    facts: dict[str, dict[str, Any]] = {
        name: {
            "shape": value.shape,
            "min": float(value.min()),
            "mean": float(value.mean()),
            "max": float(value.max()),
            **({"channels": channels[name]} if channels else {}),
        }
        for name, value in values.items()
    }
    if json:
        emit(facts)
        return
    rows = (
        (name, " x ".join(map(str, fact["shape"])), *(f"{fact[key]:.4g}" for key in ("min", "mean", "max")))
        for name, fact in facts.items()
    )
    table(("layer", "shape", " min", " mean", " max"), rows)
    for name, numbers in (channels or {}).items():
        out.print(f"{name}: channels {', '.join(map(str, numbers))}")
