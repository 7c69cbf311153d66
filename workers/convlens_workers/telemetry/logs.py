"""Logs on standard error: a JSON object a line, or text for people.

What a client sends may end up in a message or a field: a line stays one line, without control characters, and
of bounded length, whatever it is.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import socket
import stat
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, Final, Literal, TextIO

from opentelemetry import trace

from convlens.text import printable

Format = Literal["auto", "json", "text"]
"""How lines look; "auto" is text where standard error is a terminal, else JSON."""

FIELDS: Final = (
    *("request", "trace", "method", "code", "seconds", "phases", "tenant", "principal"),
    *("operation", "attempt", "incident", "resumed", "device", "queue", "why"),
)
"""Fields of `extra` that are written beside the message."""
SAID: Final = frozenset(("method", "code", "seconds", "phases"))
"""Fields that the message of a call tells already, and lines of text do not repeat."""
LONGEST: Final = 2_000
LONGEST_TRACEBACK: Final = 16_000
MOST_WAITING: Final = 1 << 20
"""Bytes of lines that wait for somebody to take them."""
PIPE_BUF: Final = select.PIPE_BUF
"""Bytes that a pipe takes as a whole or not at all."""
LOSS: Final = {
    "name": "convlens.log",
    "levelname": "WARNING",
    "levelno": logging.WARNING,
    "msg": "%d lines were lost: nobody took them",
}
QUIET: Final = ("rq.worker", "opentelemetry.attributes")
"""Loggers that are heard from WARNING on."""
_encode: Final = json.JSONEncoder(default=str).encode


class JsonFormatter(logging.Formatter):
    """A record as one JSON object of ASCII characters."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line: dict[str, Any] = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": cut(record.getMessage()),
        }
        line |= {name: _plain(value) for name, value in _fields(record)}
        if record.exc_info:
            line["exception"] = cut(self.formatException(record.exc_info), LONGEST_TRACEBACK)
        return _encode(line)


class TextFormatter(logging.Formatter):
    """A record as a line to read; the lines of a traceback are indented behind a bar."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, and below it the lines of its traceback."""
        said = f"{_stamp(record)} {record.levelname} {record.name} {printable(cut(record.getMessage()))}"
        for name, value in _fields(record):
            if name not in SAID and value != "":
                said += f" {name}={_word(str(_plain(value)))}"
        if record.exc_info:
            traceback = cut(self.formatException(record.exc_info), LONGEST_TRACEBACK)
            said += "".join(f"\n    | {printable(line)}" for line in traceback.splitlines())
        return said


class Traced(logging.Filter):
    """Adds the id of the trace that a line belongs to."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass."""
        span = trace.get_current_span().get_span_context()
        if span.is_valid and not hasattr(record, "trace"):
            record.trace = trace.format_trace_id(span.trace_id)
        return True


class Unblocking(logging.StreamHandler[TextIO]):
    """Writes lines as long as somebody takes them: a pipe that nobody reads holds nobody up.

    What does not go out now goes before the next line; beyond `MOST_WAITING` bytes lines are lost, and told
    of in the line that comes first when there is room. It opens the pipe for itself: others that share it
    may rely on theirs to block.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._waiting = bytearray()
        self._lost = 0
        self._closing = ExitStack()
        self._write = _unblocking(stream, self._closing)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or have it wait, or lose it."""
        if self._write is None:
            super().emit(record)
            return
        try:
            self._send()
            if len(self._waiting) > MOST_WAITING:
                self._lost += 1
                return
            if self._lost:
                lost, self._lost = self._lost, 0
                self._add(logging.makeLogRecord(LOSS | {"args": (lost,)}))
            self._add(record)
            self._send()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write what waits, as far as somebody takes it."""
        if self._write is None:
            super().flush()
        else:
            self._send()

    def close(self) -> None:
        """Write what can be written, and close what was opened for it."""
        self.flush()
        self._write = None
        self._closing.close()
        super().close()

    def _add(self, record: logging.LogRecord) -> None:
        self._waiting += self.format(record).encode(errors="backslashreplace") + b"\n"

    def _send(self) -> None:
        try:
            while self._waiting and self._write:
                del self._waiting[: self._write(bytes(self._waiting[:PIPE_BUF]))]
        except BlockingIOError:
            pass


def _unblocking(stream: TextIO, closing: ExitStack) -> Callable[[bytes], int] | None:
    """Writes what a stream takes at once, or raises BlockingIOError; None where that cannot be known."""
    try:
        descriptor = stream.fileno()
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            connection = closing.enter_context(socket.socket(fileno=os.dup(descriptor)))
            return lambda data: connection.send(data, socket.MSG_DONTWAIT)
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            descriptor = os.open(f"/dev/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            closing.callback(os.close, descriptor)
            return lambda data: os.write(descriptor, data)
    except (OSError, ValueError):
        pass
    return None


def configure(level: str, how: str = "auto", *filters: logging.Filter) -> None:
    """Send everything from `level` on to standard error, through `filters`, which may add fields."""
    text = how == "text" or (how == "auto" and sys.stderr.isatty())
    # Nothing that lines do not show is looked up for them: where the code stands, which thread and process.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = Unblocking(sys.stderr)
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    for each in (Traced(), *filters):
        handler.addFilter(each)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def cut(text: str, longest: int = LONGEST) -> str:
    """`text`, or its begin and its end with how much is left out between them."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters ... {text[-half:]}"


def _fields(record: logging.LogRecord) -> list[tuple[str, Any]]:
    held = vars(record)
    return [(name, held[name]) for name in FIELDS if name in held]


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | dict) else cut(str(value))


def _word(value: str) -> str:
    return value if re.fullmatch(r"[\w./:@+-]+", value, re.ASCII) else json.dumps(value)


def _stamp(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=2)
def _second(since_epoch: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since_epoch))
