"""A copy of a model from its answers alone, and attacks on the copy."""

from __future__ import annotations

from convlens_client.cli.common import out, table
from convlens_client.client import Operation


def tell(operation: Operation) -> None:
    """Prints how good the copy is after each round, and what the attacks on it do to the victim."""
    report = operation.report
    rows = ((str(after), f"{share:.1%}") for after, share in enumerate(report.agreement))
    table(("round", " says as the victim"), rows)
    out.print(f"queries: {report.queries} to learn, {report.measuring_queries} to measure")
    out.print(
        f"fooled by the attack: the copy {report.white_box:.1%}, the victim {report.transfer:.1%};"
        f" by noise as long: the victim {report.noise_transfer:.1%}"
    )
