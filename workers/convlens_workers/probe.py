"""`python -m convlens_workers.probe`: whether the worker of this machine is up; for container engines.

Asks for the metrics on CONVLENS_METRICS_LISTEN, which a worker serves once its device process has started,
while it works and while Redis is away. Exit codes: 0 they came, 1 not. A job that hangs is no matter of this
probe: the worker itself ends it, after CONVLENS_HANG_TIMEOUT.
"""

from __future__ import annotations

import http.client
import os
import sys
from typing import Final

TIMEOUT: Final = 3.0
EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}
"""What an address that listens on all interfaces is called by its neighbours."""


def answers(listen: str, timeout: float = TIMEOUT) -> bool:
    """Whether metrics come from "host:port"."""
    host, _, port = listen.rpartition(":")
    connection = http.client.HTTPConnection(
        EVERYWHERE.get(host, host).strip("[]"), int(port), timeout=timeout
    )
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    """Ask for the metrics, and print whether they came; gives the exit code."""
    listen = os.environ.get("CONVLENS_METRICS_LISTEN", "")
    up = bool(listen) and answers(listen)
    print(f"metrics on {listen or '(CONVLENS_METRICS_LISTEN is not set)'}: {'up' if up else 'no answer'}")
    return 0 if up else 1


if __name__ == "__main__":
    sys.exit(main())
