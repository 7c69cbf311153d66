"""Limits on what one tenant takes of this server: calls a second, and calls at the same time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from convlens.errors import ResourceExhausted
from convlens_server.identity.principal import principal
from convlens_server.identity.settings import IdentitySettings
from convlens_server.request.request_context import Proceed, RequestContext

BURST: Final = 10.0
"""Seconds of its rate that a tenant may use up at once."""
REMEMBERED: Final = 10_000
"""The number of tenants whose last calls are remembered."""
BUSY_RETRY: Final = 1.0
"""Seconds after which a tenant with too many calls under way is told to come back."""


class Quotas:
    """A token bucket, and a count of the calls under way, for each tenant.

    An item that a client streams counts as a call: it waits for a token, and holds back those behind it.

    Args:
        settings: say how many calls a second, and how many at once, a tenant may make.
        clock: tells the time in seconds.
        waits_for_others: tells whether calls of a tenant wait while the server works for another one.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        settings: IdentitySettings,
        clock: Callable[[], float] = time.monotonic,
        waits_for_others: Callable[[str], bool] = lambda _: False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate, self._at_once, self._clock = settings.tenant_rate, settings.tenant_calls, clock
        self._waits_for_others, self._sleep = waits_for_others, sleep
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._under_way: Counter[str] = Counter()

    async def middleware(self, context: RequestContext, proceed: Proceed) -> Any:
        """Let a call through. Raises ResourceExhausted with the time after which there is room again."""
        tenant = principal().tenant
        if self._at_once and self._under_way[tenant] >= self._at_once:
            raise self._too_many(tenant)
        if self._rate:
            if wait := self._take(tenant):
                most = f"tenant {tenant!r} may make {self._rate:g} calls a second"
                raise ResourceExhausted(most, reason="TENANT_RATE", retry_after=wait)
            if context.kind.startswith("stream"):
                context.request = self._paced(tenant, context.request)
        self._under_way[tenant] += 1
        try:
            return await proceed(context)
        finally:
            self._under_way[tenant] -= 1
            if not self._under_way[tenant]:
                del self._under_way[tenant]

    def _too_many(self, tenant: str) -> ResourceExhausted:
        """The error of one call more: not the tenant's doing where others keep its calls waiting."""
        if self._waits_for_others(tenant):
            busy = f"the server is busy with others, and {self._at_once} calls of this tenant wait already"
            return ResourceExhausted(busy, reason="QUEUE_FULL", retry_after=BUSY_RETRY)
        most = f"tenant {tenant!r} has {self._at_once} calls under way, the most it may"
        return ResourceExhausted(most, reason="TENANT_CALLS", retry_after=BUSY_RETRY)

    async def _paced(self, tenant: str, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The items of a stream, each once there is a token for it; the first has that of the call itself."""
        first = True
        async for item in items:
            while not first and (wait := self._take(tenant)):
                await self._sleep(wait)
            first = False
            yield item

    def _take(self, tenant: str) -> float:
        """Take a token out of the tenant's bucket; else gives the seconds until one is there."""
        now, full = self._clock(), max(1.0, BURST * self._rate)
        left, seen = self._buckets.get(tenant, (full, now))
        left = min(full, left + (now - seen) * self._rate)
        self._buckets[tenant] = (left - 1 if left >= 1 else left, now)
        self._buckets.move_to_end(tenant)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return max(0.0, (1 - left) / self._rate)
