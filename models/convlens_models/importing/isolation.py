"""Work on other people's files in a process of its own, with bounds of memory and time."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Final, ParamSpec, TypeVar

from google.rpc.status_pb2 import Status

from convlens.errors import (
    Cancelled,
    ConvLensError,
    FailedPrecondition,
    InvalidArgument,
    from_status,
    to_status,
)

P = ParamSpec("P")
R = TypeVar("R")

MEGABYTES: Final = 16 << 10
SECONDS: Final = 900.0
GLANCE: Final = 0.2
"""Seconds between two looks at whether it shall stop."""
STOPPED: Final = 5.0
"""Seconds that a child has to end once it has answered, or was told to."""


def isolated(
    field: str, megabytes: int, seconds: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """The result of `function`, of which, as of its arguments, a pickle must be able to tell.

    Args:
        field: what errors call the file that it reads.
        megabytes: MiB that the child may allocate, on Linux; other systems do not enforce it.
        seconds: how long it may take.

    Raises:
        InvalidArgument: it took more memory or time than that, or the child died of the file.
        ConvLensError: what `function` raised.
    """
    return stoppable(lambda: False, field, megabytes, seconds, function, *args, **kwargs)


def stoppable(
    stopped: Callable[[], bool],
    field: str,
    megabytes: int,
    seconds: float,
    function: Callable[P, R],
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """The same, of which nothing goes on once it is `stopped`.

    Raises:
        Cancelled: it was, before there was a result.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(theirs, megabytes << 20, function, args, kwargs), daemon=True)
    child.start()
    theirs.close()
    try:
        end = time.monotonic() + seconds
        while not ours.poll(min(GLANCE, max(0, end - time.monotonic()))):
            if stopped():
                raise Cancelled(f"{field}: importing it was stopped")
            if time.monotonic() < end:
                continue
            raise InvalidArgument(f"{field}: importing it takes more than {seconds:g} s", field=field)
        answer: R | bytes | None = ours.recv()
    except EOFError:
        child.join(STOPPED)
        text = f"{field}: importing it ended with {_told(child.exitcode)}; it may have {megabytes} MiB"
        raise InvalidArgument(text, field=field) from None
    finally:
        child.kill()
        child.join()
    if answer is None:
        raise InvalidArgument(f"{field}: importing it takes more than {megabytes} MiB", field=field)
    if isinstance(answer, bytes):
        raise from_status(Status.FromString(answer))
    return answer


def _run(
    answer: Connection,
    most: int,
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    """What the child does: it answers with the result, an error's status, or None for too little memory."""
    if sys.platform == "linux":
        import resource  # noqa: PLC0415 - POSIX alone has it.

        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        result = function(*args, **kwargs)
    except MemoryError:
        result = None
    except OSError as error:
        result = to_status(FailedPrecondition(str(error))).SerializeToString()
    except ConvLensError as error:
        result = None if _of_memory(error) else to_status(error).SerializeToString()
    with suppress(BrokenPipeError):
        answer.send(result)


def _of_memory(error: BaseException | None) -> bool:
    """Whether a library's error that says that memory ran out lies at the bottom of `error`."""
    while error is not None:
        if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "Failed to allocate" in str(error):
            return True
        error = error.__cause__
    return False


def _told(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
