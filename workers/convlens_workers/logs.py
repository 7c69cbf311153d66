"""Logs as JSON, one object a line, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final

EXTRA: Final = ("operation", "attempt", "incident", "resumed", "device", "queue", "why")


class JsonFormatter(logging.Formatter):
    """A record as one JSON object; fields given by `extra` stand beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in EXTRA if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Send everything from `level` on to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
