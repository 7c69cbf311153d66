"""`convlens robustness`: what accuracy an attack leaves, as a table and as a curve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from convlens.errors import InvalidArgument
from convlens_client import charts
from convlens_client.cli.attack import Method, Norm, NormOption, Restarts, Seed, Steps, StepSize, parameters
from convlens_client.cli.common import (
    Json,
    Model,
    Out,
    Resize,
    Server,
    Tls,
    connect,
    emit,
    eps,
    out,
    resize,
    table,
    write,
)
from convlens_client.cli.common import photos as found_photos
from convlens_client.rendering import Picture
from convlens_client.results import Model as ModelFacts
from convlens_client.results import Robustness

Photos = Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)]
Labels = Annotated[
    Path | None,
    typer.Option(help="File with a line NAME<tab>CLASS for each photo; class: index or label."),
]
LabelsFromNames = Annotated[
    bool,
    typer.Option("--labels-from-names", help="The class index begins the file's name: 0281_tabby.jpg."),
]


def robustness(
    photos: Photos,
    *,
    labels: Labels = None,
    labels_from_names: LabelsFromNames = False,
    method: Annotated[Method, typer.Option(help="Technique.")] = Method.PGD,
    eps: Annotated[
        list[float] | None,
        typer.Option(parser=eps, help="Epsilon; repeat, rising; default: a series up to all changes."),
    ] = None,
    steps: Steps = None,
    step_size: StepSize = None,
    restarts: Restarts = None,
    norm: NormOption = None,
    seed: Seed = None,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Measure how many photos are still classified rightly under an attack, as epsilon grows."""
    paths = found_photos(photos)
    with connect(server, tls, timeout=None) as client:
        known = classes(paths, labels, labels_from_names, client.get_model(model))
        found = client.robustness(
            paths,
            known,
            method.value,
            epsilons=eps or (),
            model=model,
            resize=resize(size),
            **parameters(steps, step_size, restarts, norm, seed),
        )
    if json:
        emit(found)
    else:
        _print_curve(found, len(paths), norm)
    write(file, np.array([astuple(point) for point in found.points]), curve(found, norm is Norm.L2))


def curve(found: Robustness, euclidean: bool = False) -> Picture:
    """Accuracy under the attack and under noise over epsilon."""
    points = found.points
    ticks = [_epsilon(point.epsilon, euclidean) for point in points]
    return charts.curves(
        {
            "under attack": [point.accuracy for point in points],
            "under noise of the same size": [point.noise_accuracy for point in points],
        },
        ticks,
        "epsilon (L2)" if euclidean else "epsilon / (1/255)",
    )


def classes(paths: Sequence[Path], labels: Path | None, from_names: bool, model: ModelFacts) -> list[int]:
    """The class of each photo, from the file of labels or from its own name."""
    if (labels is None) != from_names:
        raise InvalidArgument.of("labels", str(labels or ""), "given, or --labels-from-names, one of the two")
    if labels is None:
        return [_leading_number(path) for path in paths]
    try:
        lines = [line.split("\t") for line in labels.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument.of("labels", str(labels), f"a readable text file ({error})") from error
    if any(len(line) < 2 for line in lines):
        raise InvalidArgument.of("labels", str(labels), "lines of NAME<tab>CLASS")
    known = {line[0]: line[1] for line in lines}
    missing = next((path for path in paths if path.name not in known), None)
    if missing is not None:
        raise InvalidArgument.of("labels", str(labels), f"a file with a line for {missing.name}")
    return [model.class_index(known[path.name]) for path in paths]


def _leading_number(path: Path) -> int:
    match = re.match(r"\d+", path.name)
    if match is None:
        raise InvalidArgument.of("photos", path.name, "a name that begins with the class index")
    return int(match[0])


def _epsilon(value: float, euclidean: bool) -> str:
    return f"{value:.4g}" if euclidean else f"{value * 255:.4g}"


def _print_curve(found: Robustness, count: int, norm: Norm | None) -> None:
    euclidean = norm is Norm.L2
    table(
        (" epsilon", " accuracy", " under noise", " zero gradients"),
        (
            (
                _epsilon(point.epsilon, euclidean) + ("" if euclidean else "/255"),
                f"{point.accuracy:.1%}",
                f"{point.noise_accuracy:.1%}",
                f"{point.zero_gradient_share:.1%}",
            )
            for point in found.points
        ),
    )
    raised = ", ".join(name.replace("_", " ") for name in found.alarms.raised)
    out.print(f"{count} photos; alarms: {raised or 'none'}")
