"""The server's health for grpc.health.v1: whether it lives, and which services are ready.

| service | SERVING while |
|---|---|
| "liveness" | the event loop turns; also while the server drains, or it would be killed in the middle |
| "", "readiness", "quick", every quick service | the models to warm are loaded, until the drain begins |
| "long", the services of jobs and collections | the same, and Redis answers |
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from grpc_health.v1 import health, health_pb2

from convlens.errors import ConvLensError

PROBE_INTERVAL: Final = 2.0
"""Seconds between two probes of Redis."""
LIVENESS: Final = "liveness"
QUICK: Final = ("", "readiness", "quick")
LONG: Final = ("long",)

log = logging.getLogger("convlens.health")


class Health:
    """Tells probes which services serve.

    Args:
        quick, long: full names of the services that need no Redis, and of those that do.
        ping: raises a ConvLensError when Redis cannot be used; None where there is none.
    """

    def __init__(
        self, quick: Sequence[str], long: Sequence[str], ping: Callable[[], Awaitable[None]] | None
    ) -> None:
        self.servicer = health.aio.HealthServicer()
        self._quick, self._long = (*QUICK, *quick), (*LONG, *long)
        self._ping = ping
        self._probing: asyncio.Task[None] | None = None
        self.is_ready = False

    async def alive(self) -> None:
        """Report that the server listens, and is ready for nothing yet."""
        await self._report((LIVENESS,), serving=True)
        await self._report((*self._quick, *self._long), serving=False)

    async def ready(self) -> None:
        """Report that the models are warm; from now on the long services are as Redis is."""
        await self._report(self._quick, serving=True)
        self.is_ready = True
        if self._ping is not None:
            reachable = await self._probe(self._ping, None)
            self._probing = asyncio.create_task(self._keep_probing(self._ping, reachable))

    async def draining(self) -> None:
        """Report that the server takes no more calls."""
        self.is_ready = False
        if self._probing is not None:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing
        await self._report((*self._quick, *self._long), serving=False)

    async def _keep_probing(self, ping: Callable[[], Awaitable[None]], reachable: bool) -> None:
        while True:
            await asyncio.sleep(PROBE_INTERVAL)
            reachable = await self._probe(ping, reachable)

    async def _probe(self, ping: Callable[[], Awaitable[None]], before: bool | None) -> bool:
        """Whether Redis answers now; reports the long services if that is other than `before`."""
        try:
            await ping()
            now = True
        except ConvLensError as error:
            now = False
            if before is not False:
                log.warning("the long lane is not ready: %s", error)
        if now and before is False:
            log.info("the long lane is ready again")
        if now is not before:
            await self._report(self._long, serving=now)
        return now

    async def _report(self, services: Sequence[str], *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for service in services:
            await self.servicer.set(service, status.SERVING if serving else status.NOT_SERVING)
