"""How much of this server one tenant may take: calls a second, and calls at the same time."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final

from convlens.errors import ResourceExhausted
from convlens_server.identity.principal import principal
from convlens_server.serving.request_context import Proceed, RequestContext

BURST: Final = 10.0
"""Seconds of its rate that a tenant may use up at once."""
REMEMBERED: Final = 10_000
"""Tenants whose last calls are remembered."""
BUSY_RETRY: Final = 1.0


class Quotas:
    """A token bucket and a count for each tenant.

    Args:
        rate: calls a second; 0 for no limit.
        at_once: calls under way; 0 for no limit.
        clock: seconds.
    """

    def __init__(self, rate: float, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._at_once, self._clock = rate, at_once, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._under_way: Counter[str] = Counter()

    async def middleware(self, call: RequestContext, proceed: Proceed) -> Any:
        """Lets a call through. Raises ResourceExhausted with the time after which there is room again."""
        tenant = principal().tenant
        if self._at_once and self._under_way[tenant] >= self._at_once:
            most = f"tenant {tenant!r} has {self._at_once} calls under way, the most it may"
            raise ResourceExhausted(most, reason="TENANT_CALLS", retry_after=BUSY_RETRY)
        if self._rate:
            self._take(tenant)
        self._under_way[tenant] += 1
        try:
            return await proceed(call)
        finally:
            self._under_way[tenant] -= 1
            if not self._under_way[tenant]:
                del self._under_way[tenant]

    def _take(self, tenant: str) -> None:
        """Take a token out of the tenant's bucket, which fills at the rate."""
        now, full = self._clock(), max(1.0, BURST * self._rate)
        left, seen = self._buckets.get(tenant, (full, now))
        left = min(full, left + (now - seen) * self._rate)
        self._buckets[tenant] = (left - 1 if left >= 1 else left, now)
        self._buckets.move_to_end(tenant)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        if left < 1:
            most = f"tenant {tenant!r} may make {self._rate:g} calls a second"
            raise ResourceExhausted(most, reason="TENANT_RATE", retry_after=(1 - left) / self._rate)
