"""The server's edge: where requests are read, once it is known whose they are, and replies are sent.

What a process holds for its clients is at most the sum of
- `upload_megabytes` for requests;
- `reply_megabytes` for replies, and a piece of 1 MiB twice for each stream;
- for `max_calls` calls, and all streams of all connections, what gRPC takes of a message that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Self

from convlens.errors import ResourceExhausted
from convlens_server.edge.replies import Replies, Reply
from convlens_server.edge.room import Room
from convlens_server.edge.settings import EdgeSettings
from convlens_server.edge.uploads import RETRY, Upload, Uploads
from convlens_server.identity.principal import sharer
from convlens_server.request.request_context import Proceed, RequestContext, ServicerContext

PROBE_SECONDS: Final = 2.0
"""Seconds in which the request of a probe must arrive; it comes with the headers."""
MOST_PROBES: Final = 512
"""The number of calls of probes, watchers among them, that may be under way."""


class Edge:
    """Bounds what all calls hold.

    Args:
        settings: say how much.

    Attributes:
        calls: that are known and have not ended.
        uploads, replies: what they hold.
    """

    def __init__(self, settings: EdgeSettings) -> None:
        self._settings = settings
        self.calls = Room(settings.max_calls)
        largest = settings.max_request_bytes
        self.uploads = Uploads(settings.upload_megabytes << 20, largest, settings.upload_seconds)
        self.replies = Replies(settings.reply_megabytes << 20, settings.reader_seconds)
        self._by_peer: dict[str, set[Reply]] = {}

    def of_probes(self) -> Self:
        """An edge for calls without credentials, which are small."""
        edge, largest = type(self)(self._settings), self._settings.max_request_bytes
        edge.uploads = Uploads(0, largest, PROBE_SECONDS)
        edge.calls = Room(MOST_PROBES)
        return edge

    async def serve(
        self, proceed: Proceed, deserialize: Callable[[bytes], Any], context: RequestContext
    ) -> Any:
        """Read the request of a call, and let `proceed` answer it.

        Raises:
            ResourceExhausted: too many calls, or requests that hold too much.
            InvalidArgument, Unavailable: as `Upload.next`.
        """
        caller, servicer_context = sharer(), context.servicer_context
        if not self.calls.take(caller, 1):
            mine, calls = self.calls.of(caller), self.calls
            text = f"{calls.held} calls are under way, {mine} of them this caller's, of at most {calls.total}"
            raise ResourceExhausted(text, reason="CALLS", retry_after=RETRY)
        upload = Upload(self.uploads, caller, servicer_context, deserialize)
        peer = servicer_context.peer()
        beside = self._by_peer.setdefault(peer, set())
        reply = context.reply = Reply(self.replies, caller, context.method, servicer_context, beside)
        servicer_context.add_done_callback(partial(self._ended, reply, caller, peer))  # type: ignore[arg-type]
        try:
            streamed = context.kind.startswith("stream_")
            context.request = aiter(upload) if streamed else await upload.one()
            return await proceed(context)
        finally:
            upload.close()

    def _ended(self, reply: Reply, caller: str | None, peer: str, _: ServicerContext) -> None:
        self.calls.give(caller, 1)
        reply.sent()
        if not self._by_peer[peer]:
            del self._by_peer[peer]
