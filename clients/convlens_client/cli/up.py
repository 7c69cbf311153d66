"""`convlens up`: everything on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convlens_client.cli.common import err


def up(
    *,
    listen: Annotated[
        str, typer.Option(envvar="CONVLENS_LISTEN", help="Address of the server; port 0 takes a free one.")
    ] = "127.0.0.1:8500",
    data: Annotated[
        Path | None, typer.Option(help="Folder of jobs, results and logs; default: one of the user's own.")
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(envvar="CONVLENS_MODELS", help="Model repository; default: one of the user's own."),
    ] = None,
    device: Annotated[
        str, typer.Option(envvar="CONVLENS_DEVICE", help="Device of the workers: auto, cpu, cuda or cuda:1.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    public: Annotated[
        str,
        typer.Option(help="Address for strangers, where Envoy listens in front; needs CONVLENS_API_KEYS."),
    ] = "",
) -> None:
    """Start Redis, the server and workers on this machine; Ctrl-C drains and stops all.

    With --public 0.0.0.0:8443, strangers may call there.

    Example: convlens up --listen 127.0.0.1:8500
    """
    from convlens_client.up import Plan, run  # noqa: PLC0415 (what it needs is not on every platform)

    plan = Plan(
        listen=listen,
        models=models,
        device=device,
        workers=workers,
        public=public,
        **({"data": data} if data else {}),
    )
    run(plan, lambda line: err.print(line, soft_wrap=True))
