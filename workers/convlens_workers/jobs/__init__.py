"""The job plane, shared by servers and workers: records, queue and artifacts of long work. Needs no torch."""

from __future__ import annotations

from convlens_workers.jobs.artifacts import ArtifactStore
from convlens_workers.jobs.record import JobRecord, to_operation
from convlens_workers.jobs.settings import JobSettings
from convlens_workers.jobs.store import JobStore, helper_id

__all__ = ["ArtifactStore", "JobRecord", "JobSettings", "JobStore", "helper_id", "to_operation"]
