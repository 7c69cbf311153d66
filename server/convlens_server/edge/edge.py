"""The server's edge: where requests are read, once it is known whose they are, and replies are sent.

What a process holds for its clients is at most the sum of
- `upload_megabytes` for requests, and twice the largest while one is taken out of gRPC;
- `reply_megabytes` for replies, and a piece of 1 MiB twice for each stream;
- for `max_calls` calls, and all streams of all connections, what gRPC takes of a message that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Self

from convlens.errors import ResourceExhausted
from convlens_server.edge.replies import Replies, Reply
from convlens_server.edge.settings import EdgeSettings
from convlens_server.edge.uploads import RETRY, Upload, Uploads
from convlens_server.identity.principal import ANYBODY, principal
from convlens_server.request.request_context import Proceed, RequestContext, ServicerContext

PROBES_AT_ONCE: Final = 2
"""The number of probes whose requests are read at the same time; they come with the headers."""
PROBE_SECONDS: Final = 2.0
"""Seconds in which the request of a probe must arrive."""
MOST_PROBES: Final = 512
"""The number of calls of probes, watchers among them, that may be under way."""


class Edge:
    """Bounds what all calls hold.

    Args:
        settings: say how much.

    Attributes:
        under_way: the number of calls that are known and have not ended.
    """

    def __init__(self, settings: EdgeSettings) -> None:
        self._settings = settings
        self._most = settings.max_calls
        largest = settings.max_request_bytes
        self.uploads = Uploads(settings.upload_megabytes << 20, largest, settings.upload_seconds)
        self.replies = Replies(settings.reply_megabytes << 20, settings.reader_seconds)
        self._by_peer: dict[str, set[Reply]] = {}
        self.under_way = 0

    def of_probes(self) -> Self:
        """An edge for calls without credentials, which are small."""
        edge, largest = type(self)(self._settings), self._settings.max_request_bytes
        edge.uploads = Uploads(PROBES_AT_ONCE * largest, largest, PROBE_SECONDS)
        edge._most = MOST_PROBES
        return edge

    async def serve(
        self, proceed: Proceed, deserialize: Callable[[bytes], Any], context: RequestContext
    ) -> Any:
        """Read the request of a call, and let `proceed` answer it.

        Raises:
            ResourceExhausted: too many calls, or requests that hold too much.
            InvalidArgument, Unavailable: as `Upload.next`.
        """
        if self.under_way >= self._most:
            text = f"{self.under_way} calls are under way, the most that may be"
            raise ResourceExhausted(text, reason="CALLS", retry_after=RETRY)
        who, servicer_context = principal(), context.servicer_context
        caller = None if who is ANYBODY else who.tenant
        upload = Upload(self.uploads, caller, servicer_context, deserialize)
        peer = servicer_context.peer()
        beside = self._by_peer.setdefault(peer, set())
        reply = context.reply = Reply(self.replies, caller, context.method, servicer_context, beside)
        self.under_way += 1
        servicer_context.add_done_callback(partial(self._ended, reply, peer))  # type: ignore[arg-type]
        try:
            streamed = context.kind.startswith("stream_")
            context.request = aiter(upload) if streamed else await upload.one()
            return await proceed(context)
        finally:
            upload.close()

    def _ended(self, reply: Reply, peer: str, _: ServicerContext) -> None:
        self.under_way -= 1
        reply.sent()
        if not self._by_peer[peer]:
            del self._by_peer[peer]
