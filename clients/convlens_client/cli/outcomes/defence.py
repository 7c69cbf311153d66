"""What a defence is worth once the attacker knows of it."""

from __future__ import annotations

from convlens_client import rendering
from convlens_client.cli.common import percent, table
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The images of BPDA; the first one, its change, and what the defended model sees in both."""
    certificate = operation.report.certificates[0]
    original, adversarial = (operation.artifact(name) for name in ("original", "adversarial"))
    gain = 0.5 / max(certificate.linf, 1e-9)
    change = rendering.photo(0.5 + gain * (adversarial[0] - original[0]))
    return adversarial, rendering.sheet(
        [
            (f"defended: {percent(certificate.before)}", rendering.photo(original[0])),
            (f"change x {gain:.3g}\nat most {certificate.linf * 255:.3g}/255", change),
            (f"defended: {percent(certificate.after)}", rendering.photo(adversarial[0])),
        ]
    )


def tell(operation: Operation) -> None:
    """Prints the accuracy that is left after each attack."""
    report = operation.report
    rows = (
        ("no attack, defended", report.clean_accuracy),
        ("plain PGD, not defended", report.undefended_accuracy),
        ("plain PGD, defended", report.plain_accuracy),
        ("BPDA, defended", report.accuracy),
    )
    table(("attack", " accuracy"), ((name, f"{share:.1%}") for name, share in rows))
