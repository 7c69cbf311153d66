"""`convlens adversarial ensemble`: the accuracy that several attacks without settings leave together."""

from __future__ import annotations

from typing import Any

from convlens_client import rendering
from convlens_client.cli.adversarial.common import ATTACK
from convlens_client.cli.common import Photos, out, percent, photos_in, table
from convlens_client.cli.following import finish
from convlens_client.cli.labels import Labelled
from convlens_client.cli.options import command
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.requests import adversarial
from convlens_client.results import Array


@command("seed", *ATTACK, request=adversarial.attack_ensemble)
def ensemble(given: Labelled, pictures: Photos, **parameters: Any) -> None:
    """Attack by APGD-CE, APGD-T and Square in turn: what stands is the worst case (Croce & Hein 2020)."""
    paths = photos_in(pictures)
    operation = given.client.attack_ensemble(paths, given.classes(paths), **parameters)
    finish(given, operation, "ensemble.png", draw=draw, tell=tell)


def draw(operation: Operation) -> tuple[Array, Picture]:
    """All adversarial images; the first ones as a sheet, with what the model sees in them."""
    images = operation.artifact("adversarial")
    first = list(zip(operation.report.certificates, images, strict=True))[:8]
    cells = [(percent(certificate.after), rendering.photo(image)) for certificate, image in first]
    return images, rendering.sheet(cells, height=160)


def tell(operation: Operation) -> None:
    """Prints how many images each attack was given and broke, and the accuracy left."""
    report = operation.report
    rows = ((m.attack, m.attacked, m.broken, m.queries, f"{m.accuracy:.1%}") for m in report.members)
    table(("attack", " attacked", " broken", " passes", " accuracy left"), rows)
    out.print(f"accuracy {report.clean_accuracy:.1%} before, {report.accuracy:.1%} in the worst case")
