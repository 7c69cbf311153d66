"""The job that a new one follows, by `base` or `resume`: its request, under what the new one says."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from google.protobuf.message import Message

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens.v1 import image_pb2, job_pb2
from convlens_models.manifest import Manifest
from convlens_workers.jobs import JobRecord, JobStore
from convlens_workers.jobs.pictures import find_images
from convlens_workers.jobs.record import Reckoned
from convlens_workers.jobs.techniques import SPECIFICATIONS
from convlens_workers.jobs.techniques.base import Submission

RESUMABLE = [name for name, specification in SPECIFICATIONS.items() if specification.grows]
OF_THE_SUBMISSION = ("request_id", "tags", "base", "resume")
"""Fields that no later job takes over."""


@dataclass(frozen=True)
class EarlierJob:
    """A job that a submission names.

    Attributes:
        record: of that job.
        request: what its worker got, collections by the name that their owner knows.
        resumed: whether the new job goes on from its last checkpoint.
    """

    record: JobRecord
    request: job_pb2.SubmitJobRequest
    resumed: bool

    @classmethod
    async def of(cls, request: job_pb2.SubmitJobRequest, store: JobStore) -> Self | None:
        """The job that `request` names, if it names one. Raises InvalidArgument, NotFound."""
        if request.base and request.resume:
            raise InvalidArgument.of("resume", request.resume, "left out with base")
        if not (name := request.base or request.resume):
            return None
        record = await store.get(name)
        return cls(record, disowned(await store.request(record)), bool(request.resume))

    @property
    def technique(self) -> str:
        """Name of its technique."""
        return self.request.WhichOneof("technique") or ""

    def overlaid(self, request: job_pb2.SubmitJobRequest) -> job_pb2.SubmitJobRequest:
        """The request as if it had been sent whole. Raises InvalidArgument: of another technique."""
        if request.WhichOneof("technique") not in (None, self.technique):
            allowed = f"{self.technique}, as that of {self.record.name}"
            raise InvalidArgument.of("technique", request.WhichOneof("technique"), allowed)
        whole = job_pb2.SubmitJobRequest()
        whole.CopyFrom(self.request)
        for field in OF_THE_SUBMISSION:
            whole.ClearField(field)  # type: ignore[arg-type]
        _make_room(whole, request)
        whole.MergeFrom(request)
        whole.ClearField("base")
        return whole

    def check_resumed(self, request: job_pb2.SubmitJobRequest, manifest: Manifest) -> None:
        """Refuse a request, resolved, that its checkpoint is not one of.

        Raises:
            InvalidArgument: no job of its technique can be resumed; or no step is left to be done.
            FailedPrecondition: another request or model.
        """
        grows = SPECIFICATIONS[self.technique].grows
        if grows is None:
            raise InvalidArgument.of("resume", self.record.name, f"a job of {', '.join(RESUMABLE)}")
        before, after = (getattr(each, self.technique) for each in (self.request, request))
        growing = grows(before)
        differing = [
            *(
                field
                for field in ("seed", "model")
                if getattr(self.request, field) != getattr(request, field)
            ),
            *(f"{self.technique}.{name}" for name in _differing(before, after) if name not in growing),
        ]
        if differing:
            text = (
                f"{differing[0]} differs from that of {self.record.name}, which resume goes on from; see base"
            )
            raise FailedPrecondition(text, reason="OTHER_REQUEST", field=differing[0])
        if manifest.digest != self.record.metadata.model_digest:
            text = f"model {manifest.name} has other files than {self.record.name} had"
            raise FailedPrecondition(text, reason="OTHER_MODEL", field="model")
        self._check_steps(growing, before, after)

    def reckoned(self, job: Submission) -> Reckoned:
        """What is left to do for a job that is resumed, and its steps in all; blocks.

        Of a job that came to no end, the checkpoint's step is not known here: the cost is 0 then.
        """
        whole = SPECIFICATIONS[self.technique].estimate(job)
        if self.record.metadata.state != job_pb2.JOB_STATE_SUCCEEDED:
            return Reckoned(0.0, whole.steps)
        before = replace(job, params=getattr(self.request, self.technique))
        cost = whole.beyond(SPECIFICATIONS[self.technique].estimate(before))
        return Reckoned(cost, whole.steps)

    def _check_steps(self, growing: Any, before: Any, after: Any) -> None:
        done = self.record.metadata.state == job_pb2.JOB_STATE_SUCCEEDED
        for name in growing:
            had, wanted = getattr(before, name), getattr(after, name)
            if wanted < had:
                raise InvalidArgument.of(f"{self.technique}.{name}", wanted, f"at least {had}, as it was")
        if done and all(getattr(after, name) == getattr(before, name) for name in growing):
            more = " or ".join(growing) or "nothing: it makes several pictures"
            allowed = f"a job with steps left to do, and this has done them all; larger may be {more}"
            raise InvalidArgument.of("resume", self.record.name, allowed)


def reckoned_of(job: Submission) -> Reckoned:
    """What a job that is prepared costs, and how many steps it has; blocks."""
    estimate = SPECIFICATIONS[job.technique].estimate(job)
    return Reckoned(estimate.cost, estimate.steps)


def described(request: job_pb2.SubmitJobRequest) -> job_pb2.GetJobRequestResponse:
    """What a job was asked for, its pictures by what tells them from others instead of by their bytes."""
    shown = job_pb2.GetJobRequestResponse(request=disowned(request))
    shown.request.ClearField("request_id")
    technique = shown.request.WhichOneof("technique") or ""
    for path, image, _ in find_images(getattr(shown.request, technique)):
        data = image.encoded if image.WhichOneof("source") == "encoded" else image.tensor.data
        shown.pictures.add(
            path=f"{technique}.{path}",
            name=image.name,
            sha256=hashlib.sha256(data).hexdigest(),
            total_bytes=len(data),
        )
        image.ClearField(image.WhichOneof("source") or "encoded")
    return shown


async def describe(record: JobRecord, store: JobStore) -> job_pb2.GetJobRequestResponse:
    """The same for a job. Raises NotFound, DataLoss."""
    return await asyncio.to_thread(described, await store.request(record))


def disowned(request: job_pb2.SubmitJobRequest) -> job_pb2.SubmitJobRequest:
    """The request with the collection by the name that its owner knows; nobody's own names have a dot."""
    params: Any = getattr(request, request.WhichOneof("technique") or "")
    if "collection" in params.DESCRIPTOR.fields_by_name and params.collection:
        params.collection = params.collection.rpartition(".")[2]
    return request


def _make_room(target: Message, given: Message) -> None:
    """Clear what merging would add to: repeated fields, maps and pictures that `given` has."""
    for field, value in given.ListFields():
        plain = field.message_type is None or field.is_repeated
        if plain or field.message_type == image_pb2.Image.DESCRIPTOR:
            target.ClearField(field.name)
        elif target.HasField(field.name):
            _make_room(getattr(target, field.name), value)


def _differing(one: Message, other: Message) -> Iterator[str]:
    """Names of the fields in which two messages of a type differ."""
    return (
        field.name
        for field in one.DESCRIPTOR.fields
        if getattr(one, field.name) != getattr(other, field.name)
    )
