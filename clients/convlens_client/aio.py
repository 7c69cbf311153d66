"""`AsyncClient` and `AsyncOperation`, for callers on an event loop: `client.py` once more, with `await`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, ClassVar, Concatenate, Final, ParamSpec, Self, TypeVar

import grpc
from grpc import aio

from convlens.errors import Unavailable, from_rpc_error
from convlens.v1 import inspection_pb2, inspection_pb2_grpc
from convlens_client.calls import Rpc
from convlens_client.connection import Connection, KnownJob, as_method
from convlens_client.features import FeatureStream, FeatureVector, Named, PoolingName
from convlens_client.images import ResizeLike
from convlens_client.requests import (
    adversarial,
    attribution,
    collection,
    inspection,
    job,
    model,
    quick_attack,
    synthesis,
    unit,
)
from convlens_client.results import Array, JobMetadata, Snapshot
from convlens_client.retry import RetryPolicy

BROKEN: Final = "Internal error from Core"
"""What grpc.aio says, instead of the status, where a stream ends while it writes."""
P = ParamSpec("P")
T = TypeVar("T")
NamedImages = Iterable[Named] | AsyncIterable[Named]


def _asking(build: Callable[P, Rpc[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    @functools.wraps(build)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.run(build(*args, **kwargs))

    return as_method(method, build)


def _submitting(
    build: Callable[P, Rpc[Snapshot]],
) -> Callable[Concatenate[AsyncClient, P], Awaitable[AsyncOperation]]:
    @functools.wraps(build)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncOperation:
        return AsyncOperation(self, await self.run(build(*args, **kwargs)))

    return as_method(method, build, "AsyncOperation")


class AsyncClient(Connection):
    """A connection to a ConvLens server for one event loop; arguments and methods as in `Client`.

    >>> async def main():
    ...     async with AsyncClient() as client:
    ...         print((await client.classify("cat.jpg"))[0].top.label)
    """

    _library: ClassVar = aio

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        await self._channel.close()

    list_models = _asking(model.list_models)
    get_model = _asking(model.get_model)
    filters = _asking(model.filters)
    add_model = _asking(model.add_model)
    load_model = _asking(model.load_model)
    unload_model = _asking(model.unload_model)
    loaded_models = _asking(model.loaded_models)
    classify = _asking(inspection.classify)
    activations = _asking(inspection.activations)
    attribute = _asking(attribution.attribute)
    attribute_all = _asking(attribution.attribute_all)
    check_randomisation = _asking(attribution.check_randomisation)
    attack = _asking(quick_attack.attack)
    robustness = _asking(quick_attack.robustness)
    stylise = _asking(inspection.stylise)
    unit_patterns = _asking(unit.unit_patterns)
    discrepancy_maps = _asking(unit.discrepancy_maps)
    create_collection = _asking(collection.create_collection)
    get_collection = _asking(collection.get_collection)
    list_collections = _asking(collection.list_collections)
    delete_collection = _asking(collection.delete_collection)
    add_images = _asking(collection.add_images)
    list_images = _asking(collection.list_images)
    get_image = _asking(collection.get_image)
    nearest = _asking(collection.nearest)
    top_activations = _asking(collection.top_activations)
    map_collection = _asking(collection.map_collection)
    submit = _submitting(job.submit)
    extract_features = _submitting(collection.extract_features)
    deepdream = _submitting(synthesis.deepdream)
    visualise = _submitting(synthesis.visualise)
    texture = _submitting(synthesis.texture)
    style_transfer = _submitting(synthesis.style_transfer)
    train_style = _submitting(synthesis.train_style)
    lbfgs_attack = _submitting(adversarial.lbfgs_attack)
    carlini_wagner = _submitting(adversarial.carlini_wagner)
    expectation_attack = _submitting(adversarial.expectation_attack)
    adversarial_patch = _submitting(adversarial.adversarial_patch)
    printed_photo = _submitting(adversarial.printed_photo)
    defence_attack = _submitting(adversarial.defence_attack)
    attack_ensemble = _submitting(adversarial.attack_ensemble)
    transfer_matrix = _submitting(adversarial.transfer_matrix)
    attribution_maps = _submitting(attribution.attribution_maps)
    substitute = _submitting(adversarial.substitute)
    measure_receptive_field = _submitting(unit.measure_receptive_field)
    rerun = _submitting(job.rerun)
    resume = _submitting(job.resume)
    operation = _submitting(job.operation)
    job_request = _asking(job.job_request)
    job_stats = _asking(job.job_stats)

    async def operations(
        self, *, state: str = "", technique: str = "", tags: Mapping[str, str] = MappingProxyType({})
    ) -> list[AsyncOperation]:
        """The jobs that the server keeps: all, or those in a state ("RUNNING"), of a technique, with tags."""
        call = job.operations(state=state, technique=technique, tags=tags)
        return [AsyncOperation(self, state) for state in await self.run(call)]

    async def features(
        self,
        images: NamedImages,
        layer: str,
        *,
        pooling: PoolingName = "mean",
        normalise: bool = False,
        model: str = "",
        resize: ResizeLike | None = None,
    ) -> AsyncGenerator[FeatureVector]:
        """As `Client.features`; `images` may be an async iterable as well."""
        stream = FeatureStream(layer, pooling, normalise, model, resize)

        async def requests() -> AsyncIterator[inspection_pb2.StreamFeaturesRequest]:
            yield stream.first()
            try:
                async for image in _each(images):
                    yield await asyncio.to_thread(stream.request, image)
            except Exception as failure:  # Raised where the vectors are read, not in gRPC's task.
                stream.failure = failure

        try:
            async with aclosing(self._vectors(stream, requests())) as vectors:
                async for vector in vectors:
                    yield vector
        except aio.AioRpcError as failure:
            if failure.details() == BROKEN:
                await self._ask_why(stream)
            raise from_rpc_error(failure) from failure
        if stream.failure:
            raise stream.failure

    async def _vectors(self, stream: FeatureStream, requests: Any) -> AsyncGenerator[FeatureVector]:
        replies = self._stub(inspection_pb2_grpc.InspectionServiceStub).StreamFeatures(
            requests, metadata=self._headers()
        )
        try:
            async for reply in replies:
                for vector in stream.add(reply):
                    yield vector
        finally:
            replies.cancel()

    async def _ask_why(self, stream: FeatureStream) -> None:
        """Raise what the server has against an image that it did not answer, sent once more by itself."""
        try:
            for request in tuple(stream.unanswered):
                async with aclosing(self._vectors(stream, iter([stream.first(), request]))) as vectors:
                    async for _ in vectors:
                        pass
        except aio.AioRpcError as failure:
            if failure.details() != BROKEN:
                raise from_rpc_error(failure) from failure
        raise Unavailable("the connection broke while images were sent")

    async def run(self, call: Rpc[T], timeout: float | None = None) -> T:
        """Asks until the call is complete; returns what it came to."""
        async for _ in self.follow(call, timeout):
            pass
        return call.result()

    async def follow(self, call: Rpc[Any], timeout: float | None = None) -> AsyncGenerator[Any]:
        """Asks until the call is complete; yields what it makes of each reply, if anything."""
        policy, step = self._policy(call, timeout), call.step
        while not call.complete:
            if step != call.step:
                policy, step = self._policy(call, timeout), call.step
            try:
                async with aclosing(self._ask(call, policy)) as replies:
                    async for shown in replies:
                        yield shown
            except (grpc.RpcError, Unavailable) as failure:
                await asyncio.sleep(policy.delay(failure))

    async def _ask(self, call: Rpc[Any], policy: RetryPolicy) -> AsyncGenerator[Any]:
        method = getattr(self._stub(call.method.stub), call.method.name)
        reply = method(call.request(), timeout=policy.remaining(), metadata=self._headers())
        if isinstance(method, aio.UnaryUnaryMultiCallable):
            call.add(await reply)
        else:
            try:
                async for part in reply:
                    policy.progressed()
                    yield call.add(part)
            except aio.AioRpcError as failure:
                if failure.details() == BROKEN:
                    raise Unavailable("the connection broke while requests were sent") from failure
                raise
            finally:
                reply.cancel()
        call.end()


class AsyncOperation(KnownJob[AsyncClient]):
    """A job on the server: a future that any client can find again by its `name`; as `Operation`."""

    async def done(self) -> bool:
        """Whether the job has ended, in whatever way."""
        if not self._state.done:
            self._state = await self._client.run(job.operation(self.name))
        return self._state.done

    async def wait(self, timeout: float | None = None) -> JobMetadata:
        """Returns when the job has ended; see `Operation.wait`."""
        if not self._state.done:
            self._state = await self._client.run(job.wait(self.name), timeout)
        return self.metadata

    async def result(self, timeout: float | None = None) -> dict[str, Array]:
        """All artifacts, once the job has ended; see `Operation.result`."""
        await self.wait(timeout)
        if self._state.error:
            raise self._state.error
        return {item.name: await self.artifact(item.name) for item in self._state.artifacts}

    async def artifact(self, name: str) -> Array:
        """One artifact; see `Operation.artifact`."""
        return await self._client.run(job.read_artifact(self.name, name))

    def watch(self) -> AsyncGenerator[JobMetadata]:
        """Yields the job at each of its events, from the first that is kept to the last."""
        return self._client.follow(job.watch(self.name))

    async def cancel(self) -> None:
        """Asks the job to stop; it stops between two steps."""
        await self._client.run(job.cancel(self.name))

    async def delete(self) -> None:
        """Removes the job, once it has ended, with its artifacts."""
        await self._client.run(job.delete(self.name))


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """The items of either kind of iterable; an ordinary one may block, so it has a thread."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    iterator = iter(items)
    end: Any = object()
    while (item := await asyncio.to_thread(next, iterator, end)) is not end:
        yield item
