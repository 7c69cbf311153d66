"""`convlens-worker [--queue NAME]`: takes jobs from the queue until SIGTERM or SIGINT.

Exit codes: 0 after a signal (a running job was checkpointed and given back), 1 after an error, 2 for bad
settings, 3 when Redis cannot be reached at the start.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from contextlib import suppress
from typing import Final

import redis
from rq.exceptions import StopRequested

from convlens.errors import ConvLensError, InvalidArgument
from convlens_workers.jobs.redis_errors import LOST, Meaning, answer
from convlens_workers.jobs.settings import read
from convlens_workers.settings import WorkerSettings
from convlens_workers.supervisor import Supervisor
from convlens_workers.telemetry.logs import configure
from convlens_workers.telemetry.tracing import exporting

REDIS_TIMEOUT: Final = 30.0
"""Seconds that Redis may take to answer when the worker starts."""

log = logging.getLogger("convlens_workers")


def main() -> int:
    """Read settings and command line, wait for Redis, then work; gives the exit code."""
    try:
        settings = read(WorkerSettings)
        if queue := arguments().queue:
            settings = settings.model_copy(update={"queue": queue})
    except InvalidArgument as error:
        print(f"convlens-worker: {error}", file=sys.stderr)
        return 2
    configure(settings.log_level, settings.log_format)
    if not redis_answers(settings.redis):
        return 3
    with exporting("convlens-worker"):
        return work(settings)


def work(settings: WorkerSettings) -> int:
    """Take jobs until a signal comes; gives the exit code."""
    try:
        supervisor = Supervisor(settings)
    except ConvLensError as error:
        print(f"convlens-worker: {error}", file=sys.stderr)
        return 1
    try:
        supervisor.work(logging_level=None)
    except StopRequested:
        supervisor.teardown()
    except Exception:
        log.exception("the worker failed")
        return 1
    return 0 if supervisor.draining else 1


def arguments() -> argparse.Namespace:
    """The command line; everything else is an environment variable, see `WorkerSettings`."""
    parser = argparse.ArgumentParser(prog="convlens-worker", description="Takes jobs from one queue.")
    parser.add_argument("--queue", help="its name, such as convlens-high; default: CONVLENS_QUEUE")
    return parser.parse_args()


def redis_answers(url: str, timeout: float = REDIS_TIMEOUT) -> bool:
    """Whether Redis answers within `timeout` seconds; one that only refuses for a while does."""
    until = time.monotonic() + timeout
    with redis.Redis.from_url(url, socket_connect_timeout=2.0, socket_timeout=2.0) as client:
        while True:
            try:
                warn_of_eviction(client)
                return True
            except redis.RedisError as error:
                row = answer(error)
                if row not in (None, LOST) and row.meaning is not Meaning.OPERATOR:
                    return True
                log.warning("Redis does not answer: %s", row.says.format(said=error) if row else error)
            if time.monotonic() > until:
                return False
            time.sleep(1.0)


def warn_of_eviction(client: redis.Redis) -> None:
    """Say so where Redis may drop jobs when it is full; also serves as a sign of life."""
    client.ping()
    with suppress(redis.ResponseError):  # Hosted ones may forbid to ask.
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
        if policy != "noeviction":
            log.warning("Redis may drop jobs: its maxmemory-policy is %s, not noeviction", policy)


if __name__ == "__main__":
    sys.exit(main())
