"""What is shown of a finished job, by its technique: one file an outcome, and the table of all.

The command that waits for a job, `convlens jobs result` and `convlens jobs show` read the same table, so that
a job that was left alone comes to the same picture and the same words.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from convlens_client.cli.common import write
from convlens_client.cli.outcomes import (
    attack,
    collection,
    defence,
    dream,
    ensemble,
    expectation,
    field,
    patch,
    printed,
    saliency,
    substitute,
    training,
    transfer,
    visualisation,
)
from convlens_client.cli.outcomes.artifact import file_for, names, write_artifact
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array

Draw = Callable[[Operation], tuple[Array, Picture]]
Tell = Callable[[Operation], None]


class Outcome(NamedTuple):
    """What a technique comes to.

    Attributes:
        artifact: the one that is written, where nothing is drawn; "" for the first.
        draw: makes the tensor and the picture to be written.
        tell: prints for people what came of it.
    """

    artifact: str = ""
    draw: Draw | None = None
    tell: Tell | None = None


OUTCOMES: Final[dict[str, Outcome]] = {
    "deepdream": Outcome("image", tell=dream.tell),
    "extract_features": Outcome("images", tell=collection.tell),
    "feature_visualisation": Outcome(draw=visualisation.draw, tell=visualisation.tell),
    "measure_receptive_field": Outcome(draw=field.draw, tell=field.tell),
    "texture": Outcome("image"),
    "style_transfer": Outcome("image"),
    "lbfgs_attack": Outcome(draw=attack.triple, tell=attack.certificates),
    "carlini_wagner": Outcome(draw=attack.triple, tell=attack.certificates),
    "expectation_attack": Outcome(draw=expectation.draw, tell=attack.certificates),
    "adversarial_patch": Outcome(draw=patch.draw, tell=patch.tell),
    "defence_attack": Outcome(draw=defence.draw, tell=defence.tell),
    "attack_ensemble": Outcome(draw=ensemble.draw, tell=ensemble.tell),
    "attribution_maps": Outcome(draw=saliency.draw, tell=saliency.tell),
    "transfer_matrix": Outcome(draw=transfer.draw, tell=transfer.tell),
    "substitute": Outcome("adversarial", tell=substitute.tell),
    "printed_photo": Outcome(draw=printed.draw, tell=printed.tell),
    "train_style": Outcome("image", tell=training.tell),
}
"""By the names of the techniques in `SubmitJobRequest`; of others, the first artifact is written."""


def outcome(operation: Operation) -> Outcome:
    """What is shown of a job."""
    return OUTCOMES.get(operation.metadata.technique, Outcome())


def write_outcome(operation: Operation, path: Path, draw: Draw | None = None) -> None:
    """Writes what a job made: the artifact that is a file of that kind, a drawing, or its main tensor."""
    shown = outcome(operation)
    draw = draw or shown.draw
    if file := file_for(operation, path):
        write_artifact(operation, file, path)
    elif draw is not None:
        write(path, *draw(operation))
    else:
        write_artifact(operation, shown.artifact or names(operation)[0], path)


def tell(operation: Operation) -> None:
    """Prints what came of a finished job, where its technique has something to say."""
    said = outcome(operation).tell
    if said is not None:
        said(operation)
