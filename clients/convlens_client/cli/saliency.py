"""`convlens saliency`: which pixels a class or a unit responds to."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from convlens.v1 import attribution_pb2
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
    out,
    resize,
    write,
)
from convlens_client.cli.targets import (
    Class,
    LogProb,
    OneChannel,
    OneDirection,
    OneNeuron,
    parse_target,
)
from convlens_client.images import as_seen
from convlens_client.results import Array, Attribution
from convlens_client.results import Model as ModelFacts


class Method(StrEnum):
    """Saliency techniques, as the command line spells them."""

    GRADIENT = "gradient"
    GUIDED_BACKPROP = "guided-backprop"
    DECONVNET = "deconvnet"
    GRADIENT_TIMES_INPUT = "gradient-times-input"
    INTEGRATED_GRADIENTS = "integrated-gradients"
    SMOOTHGRAD = "smoothgrad"
    GRAD_CAM = "grad-cam"
    GUIDED_GRAD_CAM = "guided-grad-cam"
    OCCLUSION = "occlusion"
    RISE = "rise"


class InsertionStart(StrEnum):
    """Blurs that insertion may begin with."""

    PUBLISHED = "published"
    SCALED = "scaled"


class DeletionEnd(StrEnum):
    """Colours that deletion may end with."""

    MEAN = "mean"
    GREY = "grey"


class Look(StrEnum):
    """How a map becomes a picture."""

    AUTO = "auto"
    SIGNED = "signed"
    MAGNITUDE = "magnitude"
    HEAT = "heat"


def saliency(
    image: Image,
    *,
    method: Annotated[Method, typer.Option(help="Technique.")] = Method.GRADIENT,
    target: Class = None,
    log_prob: LogProb = False,
    neuron: OneNeuron = None,
    channel: OneChannel = None,
    direction: OneDirection = None,
    steps: Annotated[int | None, typer.Option(help="Steps of integrated-gradients; 50.")] = None,
    baseline: Annotated[float | None, typer.Option(help="Grey value it starts from; 0, black.")] = None,
    samples: Annotated[int | None, typer.Option(help="Noisy copies of smoothgrad; 50.")] = None,
    sigma: Annotated[float | None, typer.Option(help="Its noise, of the image's range; 0.2.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of (guided-)grad-cam; the last map.")] = None,
    window: Annotated[int | None, typer.Option(help="Side of occlusion's square; 15 pixels.")] = None,
    stride: Annotated[int | None, typer.Option(help="Pixels between its squares; 8.")] = None,
    fill: Annotated[float | None, typer.Option(help="Grey value of its squares; 0.5.")] = None,
    masks: Annotated[int | None, typer.Option(help="Masks of rise; 1000.")] = None,
    cells: Annotated[int | None, typer.Option(help="Cells a side of its masks; 7.")] = None,
    probability: Annotated[float | None, typer.Option(help="Chance that a cell is open; 0.5.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of smoothgrad and rise; 0.")] = None,
    quality: Annotated[bool, typer.Option("--quality", help="Also insertion and deletion scores.")] = False,
    insertion_start: Annotated[
        InsertionStart,
        typer.Option(help="Blur that insertion begins with: of the authors' code, or scaled to the image."),
    ] = InsertionStart.PUBLISHED,
    deletion_end: Annotated[
        DeletionEnd, typer.Option(help="Colour that deletion ends with: the model's mean, or grey.")
    ] = DeletionEnd.MEAN,
    look: Annotated[
        Look,
        typer.Option(help="Signed around grey, largest |channel|, or heat over the photo; auto: as fits."),
    ] = Look.AUTO,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Draw which pixels a class or a unit responds to."""
    given = {
        "steps": steps, "baseline": baseline, "samples": samples, "sigma": sigma, "layer": layer,
        "window": window, "stride": stride, "fill": fill, "masks": masks, "cells": cells,
        "probability": probability, "seed": seed,
    }  # fmt: skip
    parameters: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    technique: Any = method.value.replace("-", "_")
    start: Any = f"INSERTION_START_{insertion_start.name}"
    end: Any = f"DELETION_END_{deletion_end.name}"
    scoring = quality and attribution_pb2.Quality(insertion_start=start, deletion_end=end)
    with connect(server, tls, timeout=None) as client:
        facts = client.get_model(model)
        wanted = parse_target(facts, target, log_prob, neuron=neuron, channel=channel, direction=direction)
        found = client.attribute(
            image, technique, wanted, quality=scoring, model=model, resize=resize(size), **parameters
        )
    _report(found, neuron or channel or direction, facts, json)
    if file is not None:
        write(file, found.map[0], picture(found.map[0], image, size, look))


def picture(attribution: Array, image: Path, size: str | None, look: Look) -> rendering.Picture:
    """A map (C, H, W) as a picture; heat over the photo where it has a single channel, unless told."""
    if look is Look.HEAT or (look is Look.AUTO and len(attribution) == 1):
        height, width = attribution.shape[1:]
        return rendering.glow(attribution, as_seen(image, height, width, resize(size)))
    return rendering.magnitude(attribution) if look is Look.MAGNITUDE else rendering.signed(attribution)


def _report(found: Attribution, unit: str | None, facts: ModelFacts, json: bool) -> None:
    index = found.class_indices[0] if found.class_indices else None
    name = unit if index is None else facts.labels[index]
    scores = {
        "completeness_residual": found.completeness_residuals,
        "insertion": found.insertion,
        "deletion": found.deletion,
    }
    told = {key: value[0] for key, value in scores.items() if value}
    if json:
        shape = found.map.shape[1:]
        scored = {"quality": found.quality} if found.quality else {}
        emit(
            {"target": name, "class_index": index, "value": found.values[0], "shape": shape, **told, **scored}
        )
        return
    out.print(f"{name}: {found.values[0]:.6g}")
    for key, value in told.items():
        out.print(f"{key.replace('_', ' ')}: {value:.4g}")
    if found.quality:
        start, end = found.quality.insertion_start.lower(), found.quality.deletion_end.lower()
        out.print(f"insertion from the {start} blur, deletion to {end}, {found.quality.steps} steps")
    if not found.map.any():
        out.print("the map is zero: nothing gets back to the pixels; try a --channel or another --method")
