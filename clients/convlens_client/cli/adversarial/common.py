"""What the commands of attack jobs share: what an attack did, told and drawn."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from convlens_client.cli import completion
from convlens_client.cli.options import JOB

ATTACK: Final = (*JOB, "resize")
"""The shared options of attack jobs."""
Target = Annotated[
    str,
    typer.Option(
        autocompletion=completion.classes,
        help="Class to be taken for, by index or label.",
        show_default=False,
    ),
]
