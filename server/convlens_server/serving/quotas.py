"""Limits on what one tenant takes of this server: calls a second, and calls at the same time."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
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

    Args:
        settings: say how many calls a second, and how many at once, a tenant may make.
        clock: tells the time in seconds.
    """

    def __init__(self, settings: IdentitySettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._at_once, self._clock = settings.tenant_rate, settings.tenant_calls, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._under_way: Counter[str] = Counter()

    async def middleware(self, context: RequestContext, proceed: Proceed) -> Any:
        """Let a call through. Raises ResourceExhausted with the time after which there is room again."""
        tenant = principal().tenant
        if self._at_once and self._under_way[tenant] >= self._at_once:
            most = f"tenant {tenant!r} has {self._at_once} calls under way, the most it may"
            raise ResourceExhausted(most, reason="TENANT_CALLS", retry_after=BUSY_RETRY)
        if self._rate:
            self._take(tenant)
        self._under_way[tenant] += 1
        try:
            return await proceed(context)
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
