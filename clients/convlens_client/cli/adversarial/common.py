"""What the commands of attack jobs share: classes by name, and what an attack did, told and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convlens_client import rendering
from convlens_client.cli.attack import tell
from convlens_client.cli.common import percent
from convlens_client.cli.following import finish
from convlens_client.client import Client, Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array

Target = Annotated[str, typer.Option(help="Class to be taken for, by index or label.", show_default=False)]


def index_of(client: Client, model: str, text: str) -> int:
    """Index of the class that `text` names."""
    return client.get_model(model).class_index(text)


def finish_attack(operation: Operation, file: Path | None, name: str, *, json: bool, no_wait: bool) -> None:
    """`finish`, with the triple as picture, and the certificate of each image on the terminal."""
    finish(operation, file, name, json=json, no_wait=no_wait, draw=triple, tell=certificates)


def certificates(operation: Operation) -> None:
    """Prints what came of each image."""
    for certificate in operation.report.certificates:
        tell(certificate)


def triple(operation: Operation) -> tuple[Array, Picture]:
    """The first adversarial image; and beside it the photo, and the change, ten times enlarged."""
    found = operation.report.certificates[0]
    original, change, adversarial = (
        operation.artifact(name)[0] for name in ("original", "perturbation", "adversarial")
    )
    after = f"{percent(found.after)}\nas 8-bit PNG: {percent(found.after_encoding)}"
    return adversarial, rendering.sheet(
        [
            (percent(found.before), rendering.photo(original)),
            (
                f"change x 10\nat most {found.linf * 255:.3g}/255, L2 {found.l2:.3g}",
                rendering.photo(change),
            ),
            (after, rendering.photo(adversarial)),
        ]
    )
