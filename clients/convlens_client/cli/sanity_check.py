"""`convlens sanity-check`: whether a map shows what the network has learned."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from convlens_client.cli.common import Image, out, table
from convlens_client.cli.options import command
from convlens_client.cli.saliency import METHODS, Method
from convlens_client.cli.targets import Targeted
from convlens_client.requests import attribution
from convlens_client.results import RankCorrelation


@command("seed", "model", "resize", "frame", "json", request=attribution.check_randomisation, timeout=None)
def sanity_check(
    given: Targeted,
    image: Image,
    *,
    method: Annotated[list[Method] | None, typer.Option(help="Technique; repeat for several.")] = None,
    **parameters: Any,
) -> None:
    """Make layers random from the top down: maps that stay alike show the image, not the network.

    Example: convlens sanity-check cat.jpg --method gradient --layers 5
    """
    names = method or ["gradient", "guided-backprop", "grad-cam"]
    techniques = [METHODS[name] for name in names]
    target = given.target(given.client.get_model(given.model))
    cascade = given.client.check_randomisation(given.picture(image), techniques, target, **parameters)
    by_layer = [(item.layer, dict(zip(names, item.correlations, strict=True))) for item in cascade]
    if given.emitted([{"layer": layer, "correlations": correlations} for layer, correlations in by_layer]):
        return
    out.print(
        "Rank correlation with the trained network's map, signed / absolute, when a layer and all above"
    )
    out.print("it are random; nothing can be said where a map is blank, the same everywhere.")
    rows = ((layer, *map(_pair, correlations.values())) for layer, correlations in by_layer)
    table(("random down to", *(f" {name}" for name in names)), rows)


def _pair(correlation: RankCorrelation) -> str:
    if correlation.trained_blank:
        return "blank as trained"
    if correlation.blank:
        return "blank"
    # The absolute values may all be alike where the signed ones are not.
    both = (correlation.signed, correlation.absolute)
    return " / ".join("-" if math.isnan(value) else f"{value:.2f}" for value in both)
