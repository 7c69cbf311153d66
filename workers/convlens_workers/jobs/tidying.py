"""Removes objects of jobs that no record names any more, or that none will ever name.

Redis and the artifact store are not changed at once: what writes or removes objects may be killed between the
two, and a reply of either may be lost. So whatever may leave objects behind says so in Redis, in the script
that changes the record (a submission before it stores anything): the job is untidy. Who has said it tidies up
right afterwards; where that fails, or nobody is left to do it, workers do it later.

A job that has not ended is left alone: its end makes it untidy. One that has keeps what its record names. One
without a record keeps nothing: it was deleted, or its submission came to nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import chain

from convlens.errors import DataLoss
from convlens_workers.jobs.artifacts import ArtifactStore
from convlens_workers.jobs.record import JobRecord

log = logging.getLogger(__name__)


def tidy(artifacts: ArtifactStore, id_: str, fields: Mapping[bytes, bytes]) -> None:
    """Remove the objects of an untidy job that the fields of its record do not name. Raises Unavailable."""
    if not fields:
        artifacts.drop_all(id_)
        return
    try:
        record = JobRecord.from_fields(id_, fields)
    except DataLoss as error:
        log.error("nothing of it is removed: %s", error, extra={"operation": id_})
        return
    if record.done:
        artifacts.keep(id_, named(record))


def named(record: JobRecord) -> list[tuple[str, str]]:
    """Kinds and names of the objects that a record names."""
    made = record.result.artifacts if record.result else ()
    headers = chain(record.metadata.artifacts, made)
    return [
        ("request", record.request),
        *(("checkpoints", digest) for digest in record.checkpoints),
        *(("artifacts", header.sha256) for header in headers),
    ]
