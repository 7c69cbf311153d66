"""What an attack did to each image: told, and drawn for the first."""

from __future__ import annotations

from convlens_client import rendering
from convlens_client.cli.attack import after, tell
from convlens_client.cli.common import percent
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array


def certificates(operation: Operation) -> None:
    """Prints for each image what the attack did to it."""
    for certificate in operation.report.certificates:
        tell(certificate)


def triple(operation: Operation) -> tuple[Array, Picture]:
    """The first adversarial image; and beside it the photo, and the change, ten times enlarged."""
    certificate = operation.report.certificates[0]
    names = ("original", "perturbation", "adversarial")
    original, change, adversarial = (operation.artifact(name)[0] for name in names)
    size = f"at most {certificate.linf * 255:.3g}/255, L2 {certificate.l2:.3g}"
    return adversarial, rendering.sheet(
        [
            (percent(certificate.before), rendering.photo(original)),
            (f"change x 10\n{size}", rendering.photo(change)),
            (after(certificate), rendering.photo(adversarial)),
        ]
    )
