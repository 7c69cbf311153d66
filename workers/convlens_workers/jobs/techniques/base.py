"""What is known of a long technique without torch, read by the server and by the worker that runs it.

What a field may hold by itself stands in the proto. A rule says what no bound can: what fields have to do
with each other, with the model and with the pictures. The server applies the rules when a job is submitted.
The worker applies them again before it starts the technique, which therefore checks none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens.v1 import attack_pb2, job_pb2
from convlens_models.manifest import Manifest
from convlens_models.repository import ModelRepository
from convlens_workers.jobs.pictures import Size
from convlens_workers.jobs.techniques.work import FORWARD, Estimate, Pass, Steps

Rows = NDArray[np.float32]
"""Feature vectors of some images, one a row, (n, D)."""


@dataclass(frozen=True)
class Resources:
    """What servers and workers have beside a request.

    Attributes:
        repository: of models.
        victims: servers that may be queried, "host:port" or "oip://host:port", by the name that requests use.
        folders: of pictures to learn from, by the name that requests use.
    """

    repository: ModelRepository = field(default_factory=ModelRepository)
    victims: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Submission:
    """A job whose fields are each within their bounds.

    Attributes:
        technique: name of its arm in SubmitJobRequest, where paths of fields begin.
        params: the technique's message.
        manifest: of the request's model.
        sizes: height and width of each picture in `params`, by its path, as "styles[0].mask".
        resources: of the server or the worker that looks at the job.
        counted: what preparation has counted for `work`.
    """

    technique: str
    params: Any
    manifest: Manifest
    sizes: Mapping[str, Size] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    counted: dict[str, int] = field(default_factory=dict)

    @property
    def pixels(self) -> int:
        """The pixels of all pictures together."""
        return sum(height * width for height, width in self.sizes.values())

    def refused(self, field: str, shown: object, allowed: str) -> InvalidArgument:
        """The error that names a field of the technique."""
        return InvalidArgument.of(f"{self.technique}.{field}", shown, allowed)


@dataclass(frozen=True)
class Ranking:
    """How images are ranked: by a value (n) of each row of the features (n, D) of a layer and a pooling."""

    layer: str
    pooling: int
    value: Callable[[Rows], NDArray[Any]]


@dataclass(frozen=True)
class Preparation:
    """What the server does, before it queues a job, with the collection that the job names; functions block.

    Attributes:
        order: SHA-256 of the collection's images in the order in which they were added.
        covered: gives the SHA-256 of the images that have features of a layer and a pooling.
        describe: remembers which features there will be: lengths of vectors by layer and pooling.
        strongest: gives SHA-256 and value of so many images with the largest values, largest first; raises
            FailedPrecondition for images without features.
        put_shards: stores images as lists that workers go through one by one; gives the lists' names.
    """

    order: Sequence[str]
    covered: Callable[[str, int], set[str]]
    describe: Callable[[Mapping[tuple[str, int], int]], None]
    strongest: Callable[[Ranking, int], list[tuple[str, float]]]
    put_shards: Callable[[Sequence[str]], list[str]]


Rule = Callable[[Submission], None]
"""Raises InvalidArgument, which names the field, or FailedPrecondition."""


@dataclass(frozen=True)
class Specification:
    """What is known of a technique.

    Attributes:
        rules: what its fields have to do with each other, with the model and with the pictures.
        work: all that a job does, step by step; what it costs follows from it. Empty stands for "not known".
        complete: fills in what the request leaves open and the rules look at; blocks; at submission alone.
        prepare: fills in what only the server knows, once the job has passed the rules and is affordable;
            blocks.
        helpers: further jobs that are queued beside it, given the request and the operation's name.
        reads: the layers that it reads, of its message and the model; None: the whole network, head and all.
            They decide which sizes its pictures may have.
        grows: the counts of steps, of its message, that may be larger in a job that goes on from the last
            checkpoint of another; None: no job may. For techniques that make a picture step by step, which
            can then be seen on the way, too.
    """

    rules: tuple[Rule, ...] = ()
    work: Callable[[Submission], Iterable[Steps]] = lambda _: ()
    complete: Callable[[Submission], None] = lambda _: None
    prepare: Callable[[Submission, Preparation], None] | None = None
    helpers: Callable[[job_pb2.SubmitJobRequest, str], Iterable[job_pb2.SubmitJobRequest]] = lambda *_: ()
    reads: Callable[[Any, Manifest], Sequence[str]] | None = None
    grows: Callable[[Any], Sequence[str]] | None = None

    def seen(self, params: Any, manifest: Manifest) -> Manifest:
        """The model as the technique knows it: of any size where it reads nothing of a head that has one."""
        return manifest if self.reads is None else manifest.read_at(self.reads(params, manifest))

    def estimate(self, job: Submission) -> Estimate:
        """What a job costs that has passed the rules, in all and from each of its steps on."""
        return Estimate(list(self.work(job)), job.manifest, job.resources.repository)

    def check(self, job: Submission) -> None:
        """Apply all rules. Raises InvalidArgument, FailedPrecondition."""
        for rule in self.rules:
            rule(job)


def batch(job: Submission, field: str = "images") -> tuple[int, Size]:
    """The number of the pictures of a repeated field, and their size, which is the same for all."""
    return len(getattr(job.params, field)), job.sizes[f"{field}[0]"]


def certificates(count: int, size: Size) -> Steps:
    """The certificates of so many pictures: as they were, as they are, and as a PNG has them."""
    return Steps(0, before=(Pass(size, 3 * count, FORWARD),))


def one_size(*fields: str) -> Rule:
    """All pictures of these fields are of the size of the first one."""

    def rule(job: Submission) -> None:
        paths = [f"{field}[{i}]" for field in fields for i in range(len(getattr(job.params, field)))]
        height, width = job.sizes[paths[0]]
        for path in paths:
            size = job.sizes[path]
            if size != (height, width):
                raise job.refused(path, f"{size[1]} x {size[0]} pixels", f"{width} x {height} as {paths[0]}")

    return rule


def one_an_image(field: str, *, one_for_all: bool = False, none: bool = False) -> Rule:
    """There are as many of the field as images; or one, or none, where that is allowed."""

    def rule(job: Submission) -> None:
        count, images = len(getattr(job.params, field)), len(job.params.images)
        if count == images or (one_for_all and count == 1) or (none and not count):
            return
        others = ["one an image", *["one for all"] * one_for_all, *["none"] * none]
        raise job.refused(field, f"{count} items", f"{images} items, {', or '.join(others)}")

    return rule


def side_at_most(most: int, picture: str) -> Rule:
    """No side of this picture has more than `most` pixels, once it is scaled as the request says."""

    def rule(job: Submission) -> None:
        height, width = job.sizes[picture]
        if max(height, width) > most:
            raise job.refused(picture, f"{width} x {height} pixels", f"at most {most} pixels a side")

    return rule


def classes_exclude_each_other(job: Submission) -> None:
    """The technique compares classes, which means nothing where each has a probability of its own."""
    if job.manifest.independent:
        why = f"{job.technique} compares classes, which must exclude each other"
        raise FailedPrecondition(f"{why}: those of {job.manifest.name!r} are independent (multilabel)")


def radius_in_range(job: Submission) -> None:
    """In L-infinity epsilon is a share of a pixel's range: 8 would be meant as 8/255."""
    params = job.params
    if params.norm != attack_pb2.NORM_L2 and params.epsilon > 1:
        raise job.refused("epsilon", params.epsilon, "between 0 and 1 for L-infinity, as pixel values are")


IMAGES_ALIKE: Final = one_size("images")
LABELS: Final = one_an_image("labels")
TARGETS: Final = one_an_image("targets", one_for_all=True)
