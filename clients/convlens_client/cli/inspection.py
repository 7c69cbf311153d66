"""`convlens classify`, `filters` and `activations`: what a network sees in an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens_client import rendering
from convlens_client.cli.common import (
    Image,
    Json,
    Model,
    Out,
    Resize,
    Server,
    Tls,
    connect,
    emit,
    err,
    out,
    resize,
    table,
    write,
)
from convlens_client.client import Client
from convlens_client.results import Classification

IMAGES_A_CALL = 16


class Scale(StrEnum):
    """Over what a feature map is scaled to the range from dark to bright."""

    CHANNEL = "channel"
    LAYER = "layer"


def classify(
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP files.", show_default=False)],
    *,
    top: Annotated[int, typer.Option(help="Predictions an image.")] = 5,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Tell what the model takes images for."""
    with connect(server, tls) as client:
        for path, answer in _classified(client, images, top, model, size):
            if json:
                emit({"image": path, "predictions": answer.predictions})
                continue
            if len(images) > 1:
                out.print(f"[bold]{path}[/]")
            table(
                (" probability", " class", "label"),
                ((f"{p.probability:.2%}", p.index, p.label) for p in answer.predictions),
            )


def _classified(
    client: Client, images: list[Path], top: int, model: str, size: str | None
) -> Iterator[tuple[Path, Classification]]:
    for start in range(0, len(images), IMAGES_A_CALL):
        paths = images[start : start + IMAGES_A_CALL]
        answers = client.classify(paths, top_k=top, model=model, resize=resize(size))
        yield from zip(paths, answers, strict=True)


def filters(
    *,
    layer: Annotated[str, typer.Option(help="Layer with weights; default: the first convolution.")] = "",
    file: Out = None,
    model: Model = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Draw the filters of a layer; beyond the first they are hard to read."""
    with connect(server, tls) as client:
        weights = client.filters(layer, model=model)
    _report({layer or "first convolution": weights}, json)
    if weights.shape[1] != 3:
        err.print("inputs of this layer have no colours: one grey tile a channel, hard to read")
    write(file, weights, rendering.kernels(weights))


def activations(
    image: Image,
    *,
    layer: Annotated[list[str], typer.Option(help="Layer; repeat for several.", show_default=False)],
    file: Out = None,
    scale: Annotated[Scale, typer.Option(help="Scale of the grey tiles.")] = Scale.CHANNEL,
    channel: Annotated[int | None, typer.Option(help="Only this channel, from 0.")] = None,
    top: Annotated[int | None, typer.Option(help="Only so many channels, the strongest first.")] = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Draw what each channel of a layer responds to."""
    if file is not None and len(layer) > 1:
        raise InvalidArgument.of("layer", layer, "a single one with --out")
    with connect(server, tls) as client:
        values = client.activations(image, layer, channel=channel, top=top, model=model, resize=resize(size))
    strongest = {name: values.pop(f"{name}.channels")[0].tolist() for name in layer if top is not None}
    _report({name: value[0] for name, value in values.items()}, json, strongest)
    value = values[layer[0]][0]
    write(file, value, rendering.feature_maps(value, scale.value))


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
