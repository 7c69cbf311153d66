"""The accuracy that several attacks leave together."""

from __future__ import annotations

from convlens_client import rendering
from convlens_client.cli.common import out, percent, table
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array


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
