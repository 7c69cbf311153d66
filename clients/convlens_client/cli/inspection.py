"""`convlens classify`, `filters` and `activations`: what a network sees in an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens_client import rendering
from convlens_client.cli.common import Image, Images, emit, err, out, table, write
from convlens_client.cli.options import Shared, command
from convlens_client.rendering import Scale

IMAGES_A_CALL = 16


@command("model", "resize", "json")
def classify(
    given: Shared,
    images: Images,
    *,
    top: Annotated[int, typer.Option(help="Predictions an image.")] = 5,
    **parameters: Any,
) -> None:
    """Tell what the model takes images for."""
    for start in range(0, len(images), IMAGES_A_CALL):
        paths = images[start : start + IMAGES_A_CALL]
        answers = given.client.classify(paths, top_k=top, **parameters)
        for path, answer in zip(paths, answers, strict=True):
            if given.json:
                emit({"image": path, "predictions": answer.predictions})
                continue
            if len(images) > 1:
                out.print(f"[bold]{path}[/]")
            rows = ((f"{p.probability:.2%}", p.index, p.label) for p in answer.predictions)
            table((" probability", " class", "label"), rows)


@command("out", "model", "json")
def filters(
    given: Shared,
    *,
    layer: Annotated[str, typer.Option(help="Layer with weights; default: the first convolution.")] = "",
    **parameters: Any,
) -> None:
    """Draw the filters of a layer; beyond the first they are hard to read."""
    weights = given.client.filters(layer, **parameters)
    _report({layer or "first convolution": weights}, given.json)
    if weights.shape[1] != 3:
        err.print("inputs of this layer have no colours: one grey tile a channel, hard to read")
    write(given.out, weights, rendering.kernels(weights))


@command("out", "model", "resize", "json")
def activations(
    given: Shared,
    image: Image,
    *,
    layer: Annotated[list[str], typer.Option(help="Layer; repeat for several.", show_default=False)],
    scale: Annotated[Scale, typer.Option(help="Scale of the grey tiles.")] = "channel",
    channel: Annotated[int | None, typer.Option(help="Only this channel, from 0.")] = None,
    top: Annotated[int | None, typer.Option(help="Only so many channels, the strongest first.")] = None,
    **parameters: Any,
) -> None:
    """Draw what each channel of a layer responds to."""
    if given.out is not None and len(layer) > 1:
        raise InvalidArgument.of("layer", layer, "a single one with --out")
    values = given.client.activations(image, layer, channel=channel, top=top, **parameters)
    strongest = {name: values.pop(f"{name}.channels")[0].tolist() for name in layer if top is not None}
    _report({name: value[0] for name, value in values.items()}, given.json, strongest)
    value = values[layer[0]][0]
    write(given.out, value, rendering.feature_maps(value, scale))


def _report(
    values: dict[str, NDArray[Any]], json: bool, channels: Mapping[str, list[int]] | None = None
) -> None:
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
