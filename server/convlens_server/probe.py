"""`python -m convlens_server.probe [SERVICE]`: whether this machine's server serves; for container engines.

Asks grpc.health.v1 on CONVLENS_HEALTH_LISTEN, or without that on CONVLENS_LISTEN, about "readiness" or the
service named ("liveness", "quick", "long", ...; see `serving/health.py`). Exit codes: 0 SERVING, 1 not.
The environment is read directly, since `ServerSettings` costs a second that a probe repeats for ever.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT: Final = 3.0
"""Seconds in which the server must answer."""
EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""Addresses of this machine for servers that listen on all interfaces."""


def address() -> str:
    """The address of this machine's server, as "host:port"."""
    listen = os.environ.get("CONVLENS_HEALTH_LISTEN") or os.environ.get("CONVLENS_LISTEN") or "127.0.0.1:8500"
    host, _, port = listen.rpartition(":")
    return f"{EVERYWHERE.get(host, host)}:{port}"


def status(target: str, service: str, timeout: float = TIMEOUT) -> str:
    """The status of the service, "SERVING" when all is well, or the reason why there is no answer."""
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: list[str]) -> int:
    """Print the status of a service, and return the exit code."""
    service = arguments[0] if arguments else "readiness"
    answer = status(address(), service)
    print(f"{service} on {address()}: {answer}")
    return 0 if answer == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
