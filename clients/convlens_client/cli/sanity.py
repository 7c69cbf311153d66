"""`convlens sanity-check`: whether a map shows what the network has learned."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any

import typer

from convlens_client.cli.common import (
    Image,
    Json,
    Model,
    Resize,
    Server,
    Tls,
    connect,
    emit,
    out,
    resize,
    table,
)
from convlens_client.cli.saliency import Method
from convlens_client.cli.targets import (
    Class,
    LogProb,
    OneChannel,
    OneDirection,
    OneNeuron,
    parse_target,
)
from convlens_client.results import RankCorrelation


class Weights(StrEnum):
    """What the weights of random layers are drawn from."""

    INITIALISER = "initialiser"
    ZERO_MEAN = "zero-mean"
    OWN_MEAN = "own-mean"


def sanity_check(
    image: Image,
    *,
    method: Annotated[list[Method] | None, typer.Option(help="Technique; repeat for several.")] = None,
    target: Class = None,
    log_prob: LogProb = False,
    neuron: OneNeuron = None,
    channel: OneChannel = None,
    direction: OneDirection = None,
    layers: Annotated[int | None, typer.Option(help="Layers to randomise; default: all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the random weights; 0.")] = None,
    weights: Annotated[
        Weights,
        typer.Option(help="Drawn as the layer is initialised, or normal with its own deviation."),
    ] = Weights.INITIALISER,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Make layers random from the top down: maps that stay alike show the image, not the network."""
    names = [name.value for name in method or ()] or ["gradient", "guided-backprop", "grad-cam"]
    techniques: Any = [name.replace("-", "_") for name in names]
    drawn: Any = weights.value.replace("-", "_")
    with connect(server, tls, timeout=None) as client:
        wanted = parse_target(
            client.get_model(model), target, log_prob, neuron=neuron, channel=channel, direction=direction
        )
        cascade = client.check_randomisation(
            image,
            techniques,
            wanted,
            layers=layers,
            seed=seed,
            weights=drawn,
            model=model,
            resize=resize(size),
        )
    found = [(item.layer, dict(zip(names, item.correlations, strict=True))) for item in cascade]
    if json:
        emit([{"layer": layer, "correlations": correlations} for layer, correlations in found])
        return
    out.print(
        "Rank correlation with the trained network's map, signed / absolute, when a layer and all above"
    )
    out.print("it are random; nothing can be said where a map is blank, the same everywhere.")
    rows = ((layer, *map(_pair, correlations.values())) for layer, correlations in found)
    table(("random down to", *(f" {name}" for name in names)), rows)


def _pair(found: RankCorrelation) -> str:
    if found.trained_blank:
        return "blank as trained"
    if found.blank:
        return "blank"
    # The absolute values may all be alike where the signed ones are not.
    return " / ".join(
        "-" if math.isnan(value) else f"{value:.2f}" for value in (found.signed, found.absolute)
    )
