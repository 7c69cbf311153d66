"""What Redis may answer instead of doing what it is asked, and what each of these answers means.

One table for servers, workers and their maintenance: `redis_errors` turns every answer of it into an error of
ConvLens that says when to come back, and `connection.py` connects anew after those that mean another server.
What stands in no row is a fault of ours, or of Redis, and stays what it was.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Final, NamedTuple

from redis import exceptions

from convlens.errors import ConvLensError, ResourceExhausted, Unavailable

AWAY: Final = (Unavailable, ResourceExhausted)
"""What `redis_errors` raises: errors after which the same call may succeed in a while."""
LOG_AGAIN: Final = 60.0
"""Seconds after which the log is told once more what only an operator can mend."""

log = logging.getLogger(__name__)


class Meaning(Enum):
    """What an answer asks of who gets it: class of the error, and seconds until it is worth another try."""

    WAIT = (Unavailable, 2.0)
    """The same Redis will do it in a while."""
    ELSEWHERE = (Unavailable, 1.0)
    """Another one does it by now: connect anew, for the name may lead there."""
    FULL = (ResourceExhausted, 2.0)
    """There is no room until something is deleted or expires."""
    OPERATOR = (Unavailable, 30.0)
    """Nothing changes until somebody changes a setting; the log says which."""


class Answer(NamedTuple):
    """A row of the table: what the words of an answer mean, and what callers are told."""

    words: str
    """Regular expression of the code that Redis's answer begins with, or of what scripts say in its place."""
    meaning: Meaning
    says: str

    def error(self, said: object = "") -> ConvLensError:
        """The error that callers get."""
        kind: type[ConvLensError]
        kind, seconds = self.meaning.value
        return kind(self.says.format(said=said), retry_after=seconds)


WAIT, ELSEWHERE, FULL, OPERATOR = Meaning

ANSWERS: Final = (
    Answer("OOM", FULL, "Redis has no memory left: see its maxmemory"),
    Answer("MISCONF", WAIT, "Redis cannot write to its disk, which may be full"),
    Answer("NOREPLICAS", WAIT, "Redis has fewer replicas at hand than its min-replicas-to-write asks for"),
    Answer("LOADING", WAIT, "Redis still reads its data"),
    Answer("BUSY", WAIT, "Redis is busy with a script"),
    Answer("TRYAGAIN|EXECABORT|NOSCRIPT", WAIT, "Redis could not do it right now"),
    Answer("max number of clients", WAIT, "Redis has as many connections as its maxclients allows"),
    Answer("READONLY|UNBLOCKED", ELSEWHERE, "Redis has become a replica, and takes no writes"),
    Answer("MASTERDOWN", ELSEWHERE, "Redis is a replica that has lost its primary"),
    Answer(
        "NOPERM|ACL failure in script|The user executing the script can't|EXEC without MULTI",
        OPERATOR,
        "Redis forbids this to the user in CONVLENS_REDIS: see its ACL",
    ),
    Answer(
        "WRONGPASS|NOAUTH|invalid (username-)?password|AUTH <password> called without|no password is set",
        OPERATOR,
        "Redis does not take the user and password in CONVLENS_REDIS",
    ),
    Answer("DENIED", OPERATOR, "Redis answers its own machine alone: see its protected-mode"),
    Answer(
        "CLUSTERDOWN|MOVED|ASK|CROSSSLOT|non local key",
        OPERATOR,
        "CONVLENS_REDIS is a cluster: must be one server",
    ),
    Answer(
        "unknown (sub)?command|[Uu]nknown Redis command|[Ss]yntax error|wrong number of arg",
        OPERATOR,
        "the Redis in CONVLENS_REDIS lacks a command: must be version 6.2 or newer, with no command renamed",
    ),
    Answer("DB index is out of range", OPERATOR, "Redis has no database of the number in CONVLENS_REDIS"),
    Answer("WRONGTYPE", OPERATOR, "the database in CONVLENS_REDIS holds keys of another program"),
)
"""Looked through in this order; the first row that fits counts."""

LOST: Final = Answer("", WAIT, "Redis is away: {said}")
"""No answer at all: refused, reset, or too late."""

_WORDS: Final = [(re.compile(rf"(?<![A-Za-z])({row.words})(?![A-Za-z])"), row) for row in ANSWERS]
_logged: dict[Answer, float] = {}


def answer(error: exceptions.RedisError | OSError) -> Answer | None:
    """The row for what Redis answered; None for what stands in none.

    An answer from within a script stands in the script's error, behind where in the script that was.
    """
    said = f"{getattr(error, 'status_code', None) or ''} {error}"
    if row := next((row for words, row in _WORDS if words.search(said)), None):
        return row
    lost = isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError)
    return LOST if lost else None


def moved(error: Exception) -> bool:
    """Whether it is worth asking again at once by a new connection."""
    row = answer(error) if isinstance(error, exceptions.RedisError | OSError) else None
    return row is not None and row.meaning is ELSEWHERE


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raise Unavailable or, when Redis is full, ResourceExhausted for what stands in the table.

    Both say when to come back.
    """
    try:
        yield
    except exceptions.RedisError as error:
        row = answer(error)
        if row is None:
            raise
        _tell(row, error)
        raise row.error(error) from error


def _tell(row: Answer, error: Exception) -> None:
    """Log what only an operator can mend, not at every call."""
    now = time.monotonic()
    if row.meaning is OPERATOR and now - _logged.get(row, -LOG_AGAIN) >= LOG_AGAIN:
        _logged[row] = now
        log.error("%s (%s)", row.says, error)
