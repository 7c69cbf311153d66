"""`convlens up`: everything on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def up(
    listen: Annotated[
        str, typer.Option(envvar="CONVLENS_LISTEN", help="Address of the server.")
    ] = "127.0.0.1:8500",
    data: Annotated[
        Path | None, typer.Option(help="Folder for jobs and results; default: a folder of the user's.")
    ] = None,
) -> None:
    """Start server, worker and Redis on this machine; Ctrl-C stops all."""
