"""`convlens-server`: serve until SIGTERM or Ctrl-C, then drain."""

from __future__ import annotations

import asyncio
import logging
import sys

from convlens.errors import ConvLensError
from convlens_models.packaged import provide
from convlens_server.app import App
from convlens_server.serving.interceptors import OfCall
from convlens_server.serving.malloc import keep_freed_memory
from convlens_server.serving.processes import stop_signal, supervise
from convlens_server.settings import ServerSettings
from convlens_workers.jobs.settings import read
from convlens_workers.telemetry.logs import configure
from convlens_workers.telemetry.tracing import exporting


async def serve(settings: ServerSettings) -> None:
    """Serve until a signal comes."""
    stopping = stop_signal()
    async with await App.start(settings) as app:
        services = "both lanes" if settings.redis else "quick lane only"
        print(f"convlens-server ready on {app.address} ({services})", flush=True)
        await stopping.wait()
        logging.getLogger("convlens.server").info("draining, for at most %g s", settings.grace)


def main() -> None:
    """Run the server; every setting is an environment variable, see `ServerSettings`."""
    try:
        settings = read(ServerSettings)
        configure(settings.log_level, settings.log_format, OfCall())
        keep_freed_memory()
        provide(settings.models, settings.installed_models)
        if settings.processes > 1:
            asyncio.run(supervise(settings))
        else:
            with exporting("convlens-server"):
                asyncio.run(serve(settings))
    except ConvLensError as error:
        sys.exit(f"convlens-server: {error}")


if __name__ == "__main__":
    main()
