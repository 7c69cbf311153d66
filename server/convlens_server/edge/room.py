"""Room that callers share: each leaves free as much as it has itself.

These are the dynamic thresholds of switches that share one memory (Choudhury and Hahne, "Dynamic Queue Length
Thresholds for Shared-Memory Packet Switches", 1998): one caller alone gets half of the room, and K who take
all they can get an equal share each and leave another such share free, whoever they are and in whatever order
they come.
"""

from __future__ import annotations

from collections import Counter
from threading import Lock


class Room:
    """A number of bytes, or of calls, that callers may hold together.

    Args:
        total: of all callers.
        kept: what a caller's first piece must leave free if it takes more than it leaves, unless it is alone.
    """

    def __init__(self, total: int, kept: int = 0) -> None:
        self.total, self.kept = total, kept
        self._by_caller: Counter[str | None] = Counter()
        self._lock = Lock()  # Worker threads come here too.
        self.held = 0

    def of(self, caller: str | None) -> int:
        """What a caller holds."""
        return self._by_caller[caller]

    @property
    def free(self) -> int:
        """What nobody holds, in the unit of `total`."""
        return self.total - self.held

    def fits(self, caller: str | None, size: int) -> bool:
        """Whether a caller (None for one that may take all) may hold so much more."""
        left, mine = self.free - size, self._by_caller[caller]
        if caller is None or not self.held:
            return left >= 0
        return mine + size <= left or (mine < size and left >= self.kept)

    def take(self, caller: str | None, size: int) -> bool:
        """Hold so much more, if it fits."""
        with self._lock:
            fits = self.fits(caller, size)
            if fits:
                self._change(caller, size)
            return fits

    def give(self, caller: str | None, size: int) -> None:
        """Hold so much less."""
        self.hold(caller, -size)

    def hold(self, caller: str | None, size: int) -> None:
        """Hold so much more, whether it fits or not."""
        with self._lock:
            self._change(caller, size)

    def _change(self, caller: str | None, size: int) -> None:
        self.held += size
        self._by_caller[caller] += size
        if not self._by_caller[caller]:
            del self._by_caller[caller]
