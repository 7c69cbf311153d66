"""Callers who have left before their call could be told its end, as the log has them."""

from __future__ import annotations

import logging
from typing import Final

from grpc._cython import cygrpc  # type: ignore[attr-defined]  # The error has no public name.

GRPC: Final = logging.getLogger("grpc._cython.cygrpc")
"""Where grpc.aio logs."""


class Left(logging.Filter):
    """Makes one debug line of what grpc.aio logs as an error with a traceback when a reply cannot be sent.

    It does so where the end of a call could not be handed to the transport and grpc.aio has not been told yet
    that the client has gone, or that its connection was ended: nobody is left who could be told, and nothing
    is wrong with the server. No other error is touched.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is kept."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, cygrpc.ExecuteBatchError):
            return True
        record.msg, record.args = f"the caller has left: {record.getMessage()}", ()
        record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        record.exc_info = record.exc_text = None
        return GRPC.isEnabledFor(logging.DEBUG)


LEFT: Final = Left()
"""The only one there need be: adding it again changes nothing."""
