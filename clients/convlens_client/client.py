"""`Client`, for callers that block, and its `Operation`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

import grpc

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

P = ParamSpec("P")
T = TypeVar("T")
NamedImages = Iterable[Named]


def _asking(build: Callable[P, Rpc[T]]) -> Callable[Concatenate[Client, P], T]:
    """The method that asks what `build` builds, with its signature and docstring."""

    @functools.wraps(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(build(*args, **kwargs))

    return as_method(method, build)


def _submitting(build: Callable[P, Rpc[Snapshot]]) -> Callable[Concatenate[Client, P], Operation]:
    """The same for a call that starts or finds a job."""

    @functools.wraps(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Operation:
        return Operation(self, self.run(build(*args, **kwargs)))

    return as_method(method, build, "Operation")


class Client(Connection):
    """A connection to a ConvLens server; safe to share between threads.

    >>> with Client() as client:  # doctest: +SKIP
    ...     print(client.classify("cat.jpg")[0].top.label)

    Args:
        address: "host:port"; by default `CONVLENS_SERVER`, else 127.0.0.1:8500.
        timeout: seconds that a call may take with all its attempts; None for no limit. Waiting for a job and
            reading its results has no limit but the one that the method is given.
        tls: True for TLS with the system's roots, or the path of a PEM file with roots; by default
            `CONVLENS_TLS`.
        token: API key or JSON Web Token, where the server asks for one; by default `CONVLENS_TOKEN`.
        certificate, key: PEM files of what the client shows of itself, where the server asks for it; by
            default `CONVLENS_CLIENT_CERTIFICATE` and `CONVLENS_CLIENT_KEY`.
        patience: seconds that the server may be away or full before a call fails; by default
            `CONVLENS_PATIENCE`, else 3 (60 for what goes on where it broke), and for a full one, which says
            when to come back, as long as the call's timeout lasts.
    """

    _library: ClassVar = grpc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls in flight are cancelled, and later ones are FailedPrecondition."""
        self._channel.close()

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

    def operations(
        self, *, state: str = "", technique: str = "", tags: Mapping[str, str] = MappingProxyType({})
    ) -> list[Operation]:
        """The jobs that the server keeps: all, or those in a state ("RUNNING"), of a technique, with tags."""
        call = job.operations(state=state, technique=technique, tags=tags)
        return [Operation(self, state) for state in self.run(call)]

    def features(
        self,
        images: NamedImages,
        layer: str,
        *,
        pooling: PoolingName = "mean",
        normalise: bool = False,
        model: str = "",
        resize: ResizeLike | None = None,
    ) -> Iterator[FeatureVector]:
        """Feature vectors of a layer, one an image, in order, as fast as they are computed.

        Images are read lazily, a few ahead of the vectors, so that any number of them goes through in little
        memory; a reader who stops holds them back. A stream that breaks is not resumed: Unavailable.

        Args:
            images: any iterable of images, or of pairs (name, image); paths are their own names.
            layer: layer of the model.
            pooling: over positions: "mean", "max", or "flatten" for all of them.
            normalise: scale each vector to Euclidean length 1.
        """
        stream = FeatureStream(layer, pooling, normalise, model, resize)

        def requests() -> Iterator[inspection_pb2.StreamFeaturesRequest]:
            yield stream.first()
            try:
                yield from map(stream.request, images)
            except Exception as failure:  # Raised where the vectors are read, not in gRPC's thread.
                stream.failure = failure

        replies = self._stub(inspection_pb2_grpc.InspectionServiceStub).StreamFeatures(
            requests(), metadata=self._headers()
        )
        try:
            for reply in replies:
                yield from stream.add(reply)
        except grpc.RpcError as failure:
            raise from_rpc_error(failure) from failure
        finally:
            replies.cancel()
        if stream.failure:
            raise stream.failure

    def run(self, call: Rpc[T], timeout: float | None = None) -> T:
        """Asks until the call is complete; returns what it came to."""
        for _ in self.follow(call, timeout):
            pass
        return call.result()

    def follow(self, call: Rpc[Any], timeout: float | None = None) -> Iterator[Any]:
        """Asks until the call is complete; yields what it makes of each reply, if anything."""
        policy, step = self._policy(call, timeout), call.step
        while not call.complete:
            if step != call.step:
                policy, step = self._policy(call, timeout), call.step
            try:
                yield from self._ask(call, policy)
            except (grpc.RpcError, Unavailable) as failure:
                time.sleep(policy.delay(failure))

    def _ask(self, call: Rpc[Any], policy: RetryPolicy) -> Generator[Any]:
        method = getattr(self._stub(call.method.stub), call.method.name)
        reply = method(call.request(), timeout=policy.remaining(), metadata=self._headers())
        if isinstance(method, grpc.UnaryUnaryMultiCallable):
            call.add(reply)
        else:
            try:
                for part in reply:
                    policy.progressed()
                    yield call.add(part)
            finally:
                reply.cancel()  # A follower that stops early must not leave the stream open.
        call.end()


class Operation(KnownJob[Client]):
    """A job on the server: a future that any client can find again by its `name`."""

    def done(self) -> bool:
        """Whether the job has ended, in whatever way."""
        if not self._state.done:
            self._state = self._client.run(job.operation(self.name))
        return self._state.done

    def wait(self, timeout: float | None = None) -> JobMetadata:
        """Blocks until the job has ended; does not raise when it failed.

        Raises:
            DeadlineExceeded: it has not ended within `timeout` seconds.
        """
        if not self._state.done:
            self._state = self._client.run(job.wait(self.name), timeout)
        return self.metadata

    def result(self, timeout: float | None = None) -> dict[str, Array]:
        """Blocks until the job has ended, and reads all its artifacts, by name.

        Raises:
            Cancelled: the job was cancelled.
            DeadlineExceeded: it has not ended within `timeout` seconds.
            ConvLensError: what the job failed with.
        """
        self.wait(timeout)
        if self._state.error:
            raise self._state.error
        return {item.name: self.artifact(item.name) for item in self._state.artifacts}

    def artifact(self, name: str) -> Array:
        """Reads one artifact; goes on at the byte where a stream breaks, and checks the whole's digest."""
        return self._client.run(job.read_artifact(self.name, name))

    def watch(self) -> Iterator[JobMetadata]:
        """Yields the job at each of its events, from the first that is kept to the last."""
        return self._client.follow(job.watch(self.name))

    def cancel(self) -> None:
        """Asks the job to stop; it stops between two steps."""
        self._client.run(job.cancel(self.name))

    def delete(self) -> None:
        """Removes the job, once it has ended, with its artifacts."""
        self._client.run(job.delete(self.name))
