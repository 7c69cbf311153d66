"""A proxy of TCP that keeps back what it is told to: nothing passes, or late, and nobody is told of it."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Self


class SilentProxy:
    """Listens on `address`, and passes on what comes; connections that are silent stay open for ever.

    Attributes:
        drops: whether what comes from clients, and from the server, vanishes from now on.
        delay: seconds that everything takes, there as well as back.
    """

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._era = 0
        self.drops, self.delay = (False, False), 0.0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._closing = False
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads[0].start()

    def silence(self) -> None:
        """From now on nothing passes on the connections that there are; new ones are as they should be."""
        self._era += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, and all its connections."""
        self._closing = True
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while not self._closing:
            with suppress(OSError):
                client, _ = self._listener.accept()
                self._sockets.append(client)
                pair = (client, self._connected(client))
                self._sockets.append(pair[1])
                self._threads.append(threading.Thread(target=self._pass_on, args=[pair, self._era]))
                self._threads[-1].start()

    def _connected(self, client: socket.socket) -> socket.socket:
        try:
            return socket.create_connection(self._server)
        except OSError:
            client.close()
            raise

    def _pass_on(self, pair: tuple[socket.socket, socket.socket], era: int) -> None:
        late: deque[tuple[float, socket.socket, bytes]] = deque()
        open_sides = list(pair)
        while not self._closing and self._era == era and (late or len(open_sides) == 2):
            for side in select.select(open_sides, [], [], 0.01 if late else 0.05)[0]:
                data = b""
                with suppress(OSError):
                    data = side.recv(1 << 16)
                if not data:  # What is on its way still arrives.
                    open_sides.remove(side)
                elif not self.drops[side is pair[1]]:
                    late.append((time.monotonic() + self.delay, pair[side is pair[0]], data))
            while late and late[0][0] <= time.monotonic() and self._era == era:
                with suppress(OSError):
                    late[0][1].sendall(late[0][2])
                late.popleft()
        if self._era == era:
            for side in pair:
                side.close()
