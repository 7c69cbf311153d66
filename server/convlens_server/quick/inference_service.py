"""The service that quick calls use: models, decoded pictures, and worker threads to compute in."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

from google.protobuf.message import Message
from numpy.typing import NDArray

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens.serialised import part_messages
from convlens.v1 import image_pb2, model_pb2
from convlens.v1.attribution_pb2 import AttributeRequest
from convlens.wire import CHUNK_BYTES, MAX_PIXELS
from convlens_models.attributions import PERTURBATIONS
from convlens_models.manifest import Manifest, Task
from convlens_models.preprocess import input_size, source_size
from convlens_models.repository import StoredModel
from convlens_server.backends.base import F32, Backend
from convlens_server.backends.models import LoadedModels
from convlens_server.cache.caching_executor import CachingExecutor
from convlens_server.quick import costs
from convlens_server.quick import images as pictures
from convlens_server.request.request_context import hold, phase, timed
from convlens_server.request.validation import validate
from convlens_server.serving.call import expect
from convlens_server.serving.executor import Executor
from convlens_server.serving.parts import Parts
from convlens_server.settings import ServerSettings

P = ParamSpec("P")
R = TypeVar("R", bound=Message)

Replies = Iterator[Message | Iterator[bytes]]
"""The replies of a stream as worker threads compute them: messages, and iterators of `parts`."""
Streamed = AsyncIterator[Any]
"""The replies of a stream as gRPC gets them: messages, some of them serialised already."""


@dataclass(frozen=True)
class InferenceService:
    """The loaded models, the worker threads, and the limits that the quick servicers share."""

    models: LoadedModels
    executor: Executor | CachingExecutor
    settings: ServerSettings

    def stored(self, ref: model_pb2.ModelRef) -> StoredModel:
        """The version of the model that a request names; blocks."""
        ref = validate(ref, path="model")
        return self.models.repository.get(ref.name, ref.version if ref.HasField("version") else None)

    def backend(self, ref: model_pb2.ModelRef, path: str = "model", task: Task = "classification") -> Backend:
        """The backend of a model that must be there for this task; blocks.

        Raises:
            FailedPrecondition: a style network where a classifier is needed, or the other way round.
        """
        backend = self.models.get(validate(ref, path=path))
        require(backend.stored.manifest, task, path)
        return backend

    def admit(self, request: R, task: Task = "classification") -> tuple[R, Backend]:
        """The request within its bounds and with its defaults, and the backend of its model; blocks."""
        backend = self.backend(request.model, task=task)  # type: ignore[attr-defined]
        return validate(request, backend.stored.manifest), backend

    def admit_images(
        self,
        request: R,
        passes: costs.PassesOf = costs.once,
        reads: Callable[[R, Manifest], Iterable[str]] = lambda *_: (),
    ) -> tuple[R, Backend, F32]:
        """As `admit`, with the pictures in the field `images`, (N, 3, H, W) in [0, 1]; blocks.

        Args:
            passes: gives what the request makes of each picture.
            reads: the layers that the checked request reads; none: the whole network, head and all.

        Raises:
            ResourceExhausted: it would not end in time.
            InvalidArgument: it takes more than a call may; names the field to lower.
        """
        request, backend = self.admit(request)
        images = request.images  # type: ignore[attr-defined]
        self.expect(backend, images, passes, request)
        return request, backend, self.batch(images, backend, reads(request, backend.stored.manifest))

    def expect(
        self,
        backend: Backend,
        images: Sequence[image_pb2.Image],
        passes: costs.PassesOf = costs.once,
        request: Message | None = None,
        *,
        field: str = "images",
        default: Literal["short_side", "keep"] = "short_side",
    ) -> None:
        """Say what a call costs, from what its pictures claim to be, before any of them is decoded.

        Args:
            images: its pictures, which `field` names.
            passes: gives what the request makes of each.
            default: as for `to_input`.

        Raises:
            ResourceExhausted, InvalidArgument: as `admit_images`.
        """
        manifest, sources = backend.stored.manifest, [source_size(image) for image in images]
        files = sum(
            height * width
            for image, (height, width) in zip(images, sources, strict=True)
            if image.WhichOneof("source") == "encoded" and height * width <= MAX_PIXELS  # Others fail.
        )
        if files > self.settings.max_decoded_pixels:
            allowed = f"at most {self.settings.max_decoded_pixels} together: fewer, in several calls"
            raise InvalidArgument.of(field, f"{files} pixels before resizing", allowed)
        size = input_size(images[0], manifest, sources[0], default)
        if min(size) < 1:
            return  # It is no picture, as decoding will tell.
        made = passes(request, manifest, size)
        self.expect_passes(manifest, len(images), size, made, request=request, files=files)

    def expect_passes(
        self,
        manifest: Manifest,
        count: int,
        size: tuple[int, int],
        passes: costs.Passes,
        *,
        request: Message | None = None,
        files: int = 0,
    ) -> None:
        """As `expect`, for `count` pictures of a height and width, made from files of so many pixels."""
        image = manifest.multiply_adds * math.prod(size) / manifest.input_size**2
        if count * image * sum(passes.values()) > self.settings.max_call_cost:
            raise _too_much(request, passes, count * image, self.settings.max_call_cost)
        expect(manifest.name, count * image * sum(passes.values()) + costs.DECODED * files)

    def batch(
        self,
        images: Sequence[image_pb2.Image],
        backend: Backend,
        layers: Iterable[str] = (),
        field: str = "images[{}]",
    ) -> F32:
        """The request's pictures, (N, 3, H, W) in [0, 1]; blocks.

        Args:
            layers: those that are read of the network, which decide what sizes it takes; none: its head too.
            field: path of a picture in the request, for messages, with {} for its position.
        """
        manifest = backend.stored.manifest.read_at(layers)
        with phase("decode"):
            return pictures.batch(images, manifest, self.settings.max_batch_pixels, field)

    async def stream(self, function: Callable[P, Replies], *args: P.args, **kwargs: P.kwargs) -> Streamed:
        """The replies of a generator that runs in a worker thread; tensors are cut here, which only copies.

        Raises:
            ResourceExhausted: as `Executor.stream`.
        """
        async with aclosing(self.executor.stream(function, *args, **kwargs)) as replies:
            async for reply in replies:
                if isinstance(reply, Message):
                    yield reply
                else:
                    for message in reply:
                        yield message

    def check_values(
        self, backend: Backend, images: F32, layers: Sequence[str], field: str, copies: int = 1
    ) -> None:
        """Hold the memory for the values of the layers, so many times, until the reply has been read.

        Raises:
            InvalidArgument: names `field`: a call may not take so much.
            ResourceExhausted: there is no room now.
        """
        manifest = backend.stored.manifest
        scale = images.shape[2] * images.shape[3] / manifest.input_size**2
        shapes = [manifest.layer(name, field).shape for name in set(layers)]
        values = sum(math.prod(shape) * (scale if len(shape) > 1 else 1) for shape in shapes)
        needed = len(images) * values * images.itemsize
        if needed > self.settings.max_value_megabytes << 20:
            allowed = f"at most {self.settings.max_value_megabytes} MiB: fewer layers, images or pixels"
            raise InvalidArgument.of(field, f"values of {needed / (1 << 20):.0f} MiB", allowed)
        hold(int(copies * needed))


def require(manifest: Manifest, task: Task = "classification", path: str = "model") -> None:
    """Raise FailedPrecondition for a style network where a classifier is needed, or the other way round."""
    if manifest.task != task:
        raise FailedPrecondition(
            f"{path} = {manifest.name!r}: is a network for {manifest.task}, this call is for {task}"
        )


def _too_much(request: Message | None, passes: costs.Passes, a_pass: float, most: float) -> InvalidArgument:
    """The error of a call that takes too much; it names the number that most of it follows from."""
    field = max(passes, key=passes.__getitem__)
    value = costs.value_at(request, field) if field else None
    takes = f"the call takes {a_pass * sum(passes.values()):.2g} multiply-adds, {most:.2g} at most"
    if isinstance(value, int):
        summed = PERTURBATIONS.keys() & field.split(".") if isinstance(request, AttributeRequest) else ()
        way_out = "as a job, AttributionMaps" if summed else "the rest in other calls"
        return InvalidArgument.of(field, value, f"lower, or {way_out}: {takes}")
    return InvalidArgument(f"images: must be fewer, in several calls: {takes}", field="images")


def parts(reply: type[Message], tensors: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    """The tensors as a stream of `reply` messages.

    Raises:
        ResourceExhausted: replies that nobody has read leave no room for them.
    """
    total = sum(value.nbytes for value in tensors.values())
    hold(total + 2 * min(total, CHUNK_BYTES))  # A piece is there once more, and in gRPC.
    return Parts(timed("encode", part_messages(reply, tensors)), total)
