"""Which attacks survive being printed and photographed."""

from __future__ import annotations

from convlens_client import charts
from convlens_client.cli.common import out, table
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The first picture as the camera saw it after each attack; as a picture, the destruction rates."""
    rows = operation.report.rows
    epsilons = sorted({row.epsilon for row in rows})
    series = {
        name: [row.destruction for row in rows if row.attack == name]
        for name in dict.fromkeys(row.attack for row in rows)
    }
    ticks = [f"{epsilon * 255:.4g}" for epsilon in epsilons]
    axis = "epsilon / (1/255); successes that a photograph undoes"
    return operation.artifact("photographs"), charts.curves(series, ticks, axis)


def tell(operation: Operation) -> None:
    """Prints a row for each attack and epsilon."""
    report = operation.report
    rows = (
        (row.attack, f"{row.epsilon * 255:.4g}/255", f"{row.success:.1%}", f"{row.destruction:.1%}")
        for row in report.rows
    )
    table(("attack", " epsilon", " success", " undone by a photograph"), rows)
    out.print(f"photographs of unchanged prints seen rightly: {report.clean_accuracy:.1%}")
