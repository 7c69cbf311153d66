"""Whether this server lives, and what it is ready for: grpc.health.v1 that tells the truth.

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

LOOK_EVERY: Final = 2.0
"""Seconds between looks at Redis."""
LIVENESS: Final = "liveness"
QUICK: Final = ("", "readiness", "quick")
LONG: Final = ("long",)

log = logging.getLogger("convlens.health")


class Health:
    """What the probes are told.

    Args:
        quick, long: full names of the services of each lane.
        ping: raises a ConvLensError when the long lane cannot be used; None where there is none.
    """

    def __init__(
        self, quick: Sequence[str], long: Sequence[str], ping: Callable[[], Awaitable[None]] | None
    ) -> None:
        self.servicer = health.aio.HealthServicer()
        self._quick, self._long = (*QUICK, *quick), (*LONG, *long)
        self._ping = ping
        self._looking: asyncio.Task[None] | None = None
        self.is_ready = False

    async def alive(self) -> None:
        """The server listens, and is ready for nothing yet."""
        await self._tell((LIVENESS,), serving=True)
        await self._tell((*self._quick, *self._long), serving=False)

    async def ready(self) -> None:
        """The models are warm; from now on the long lane is as Redis is."""
        await self._tell(self._quick, serving=True)
        self.is_ready = True
        if self._ping is not None:
            await self._look(self._ping, None)
            self._looking = asyncio.create_task(self._keep_looking(self._ping))

    async def draining(self) -> None:
        """No more calls, please."""
        self.is_ready = False
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        await self._tell((*self._quick, *self._long), serving=False)

    async def _keep_looking(self, ping: Callable[[], Awaitable[None]]) -> None:
        before: bool | None = None
        while True:
            before = await self._look(ping, before)
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self, ping: Callable[[], Awaitable[None]], before: bool | None) -> bool:
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
            await self._tell(self._long, serving=now)
        return now

    async def _tell(self, services: Sequence[str], *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for service in services:
            await self.servicer.set(service, status.SERVING if serving else status.NOT_SERVING)
