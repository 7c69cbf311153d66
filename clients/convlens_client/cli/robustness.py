"""`convlens robustness`: what accuracy an attack leaves, as a table and as a curve."""

from __future__ import annotations

from dataclasses import astuple
from typing import Annotated, Any

import numpy as np
import typer

from convlens_client import charts
from convlens_client.cli.common import Photos, number_of, out, photos_in, table, write
from convlens_client.cli.labels import Labelled
from convlens_client.cli.options import command
from convlens_client.rendering import Picture
from convlens_client.requests import quick_attack
from convlens_client.results import Robustness


@command("out", "model", "resize", "json", request=quick_attack.robustness, timeout=None)
def robustness(
    given: Labelled,
    photos: Photos,
    *,
    method: Annotated[quick_attack.AttackMethod, typer.Option(help="Technique.")] = "pgd",
    eps: Annotated[
        list[float] | None,
        typer.Option(
            parser=number_of("eps"), help="Epsilon; repeat, rising; default: a series up to all changes."
        ),
    ] = None,
    **parameters: Any,
) -> None:
    """Measure how many photos are still classified rightly under an attack, as epsilon grows.

    Example: convlens robustness photos --labels-from-names --out curve.png
    """
    paths = photos_in(photos)
    curve = given.client.robustness(paths, given.classes(paths), method, epsilons=eps or (), **parameters)
    euclidean = parameters.get("norm") == "l2"
    if not given.emitted(curve):
        _print(curve, len(paths), euclidean)
    write(
        given.file(f"{method}-robustness.png"),
        np.array([astuple(point) for point in curve.points]),
        draw(curve, euclidean),
    )


def draw(curve: Robustness, euclidean: bool = False) -> Picture:
    """Accuracy under the attack and under noise over epsilon."""
    series = {
        "under attack": [point.accuracy for point in curve.points],
        "under noise of the same size": [point.noise_accuracy for point in curve.points],
    }
    ticks = [_epsilon(point.epsilon, euclidean) for point in curve.points]
    return charts.curves(series, ticks, "epsilon (L2)" if euclidean else "epsilon / (1/255)")


def _epsilon(value: float, euclidean: bool) -> str:
    return f"{value:.4g}" if euclidean else f"{value * 255:.4g}"


def _print(curve: Robustness, count: int, euclidean: bool) -> None:
    unit = "" if euclidean else "/255"
    rows = (
        (
            _epsilon(point.epsilon, euclidean) + unit,
            *(f"{x:.1%}" for x in (point.accuracy, point.noise_accuracy, point.zero_gradient_share)),
        )
        for point in curve.points
    )
    table((" epsilon", " accuracy", " under noise", " zero gradients"), rows)
    raised = ", ".join(name.replace("_", " ") for name in curve.alarms.raised)
    out.print(f"{count} photos; alarms: {raised or 'none'}")
