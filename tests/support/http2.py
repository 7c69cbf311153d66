"""As much of a client of HTTP/2 as it takes to misbehave: to begin what is never finished, to read nothing.

gRPC's own clients cannot be made to. No header is compressed, and nobody's settings are heeded.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from types import TracebackType
from typing import Final, Self

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
FRAME: Final = 16384
WINDOW: Final = 65535
INITIAL_WINDOW_SIZE: Final = 4


def message_head(length: int, *, compressed: bool = False) -> bytes:
    """What stands before a message of gRPC: whether it is compressed, and its length."""
    return struct.pack(">BI", compressed, length)


class Connection:
    """A connection of its own; frames are read when `pump` is called, and else never.

    Attributes:
        ended: streams that the server has ended.
        received: bytes of data that came.
        closed: whether the server has closed the connection, or said that it will.
    """

    def __init__(self, address: str, window: int = WINDOW) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 10)
        self._buffer = b""
        self._streams = 1
        self._room: Counter[int] = Counter({0: WINDOW})
        self._initial = WINDOW
        self.ended: set[int] = set()
        self.received = 0
        self.closed = False
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
        self._socket.sendall(PREFACE + _frame(SETTINGS, 0, 0, settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, whatever is under way."""
        self._socket.close()

    def begin(self, method: str, **headers: str) -> int:
        """Open a stream with the headers of a call; `_` in a name stands for `-`."""
        stream, self._streams = self._streams, self._streams + 2
        pairs = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "server",
            "te": "trailers",
            "content-type": "application/grpc",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs.items())
        self._send(_frame(HEADERS, END_HEADERS, stream, block))
        self._room[stream] = self._initial
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False, seconds: float = 5.0) -> int:
        """Send data as far as the server lets it within the time; gives how many bytes it took."""
        sent, until = 0, time.monotonic() + seconds
        while sent < len(data) and not self.closed and stream not in self.ended:
            piece = data[sent : sent + min(FRAME, self._room[0], self._room[stream])]
            if not piece:
                if time.monotonic() > until:
                    break
                self.pump(0.05, once=True)
                continue
            last = end and sent + len(piece) == len(data)
            self._send(_frame(DATA, END_STREAM if last else 0, stream, piece))
            for which in (0, stream):
                self._room[which] -= len(piece)
            sent += len(piece)
        return sent

    def pump(self, seconds: float, *, window: int = 0, once: bool = False) -> None:
        """Take what comes within the time, and let the server send `window` bytes more on the connection.

        Args:
            once: return as soon as anything has come.
        """
        if window:
            self._send(_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", window)))
        until = time.monotonic() + seconds
        while not self.closed:
            self._socket.settimeout(max(until - time.monotonic(), 1e-4))
            try:
                came = self._socket.recv(1 << 16)
            except TimeoutError:
                return
            except OSError:
                came = b""
            finally:
                self._socket.settimeout(10)
            self.closed = not came
            self._buffer += came
            self._take()
            if once:
                return

    def _take(self) -> None:
        while len(self._buffer) >= 9:
            length, kind, flags = int.from_bytes(self._buffer[:3]), self._buffer[3], self._buffer[4]
            stream = int.from_bytes(self._buffer[5:9])
            if len(self._buffer) < 9 + length:
                return
            payload, self._buffer = self._buffer[9 : 9 + length], self._buffer[9 + length :]
            self._heed(kind, flags, stream, payload)

    def _heed(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._room[stream] += int.from_bytes(payload)
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self._send(_frame(PING, ACK, 0, payload))
        elif kind == DATA:
            self.received += len(payload)
        elif kind == GOAWAY:
            self.closed = True
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self.ended.add(stream)

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == INITIAL_WINDOW_SIZE:
                for stream in self._room.keys() - {0}:
                    self._room[stream] += value - self._initial
                self._initial = value
        self._send(_frame(SETTINGS, ACK, 0, b""))

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            self.closed = True


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _text(text: str) -> bytes:
    """A string of HPACK without Huffman's code."""
    encoded, length = text.encode(), len(text.encode())
    if length < 127:
        return bytes((length,)) + encoded
    rest, more = length - 127, b"\x7f"
    while rest > 127:
        rest, more = rest >> 7, more + bytes((rest & 127 | 128,))
    return more + bytes((rest,)) + encoded
