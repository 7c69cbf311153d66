"""The server put together: settings in, a running grpc.aio server out."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from typing import Final, Self

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from convlens.errors import ConvLensError, FailedPrecondition, Unavailable
from convlens.inference import open_inference_pb2, open_inference_pb2_grpc
from convlens.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    attack_pb2,
    attack_pb2_grpc,
    attribution_pb2,
    attribution_pb2_grpc,
    collection_pb2,
    collection_pb2_grpc,
    inspection_pb2,
    inspection_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    style_pb2,
    style_pb2_grpc,
    unit_pb2,
    unit_pb2_grpc,
)
from convlens_models.repository import ModelRepository, default_root
from convlens_server.backends.models import LoadedModels
from convlens_server.backends.providers import CUDA, Compute, choose
from convlens_server.backends.warming import reference, warm
from convlens_server.cache.response_cache import CachingExecutor, ReplyCache
from convlens_server.collections.gateway import CollectionGateway
from convlens_server.identity import Identity
from convlens_server.identity.certificates import Pems, server_credentials
from convlens_server.jobs.admission import Limits
from convlens_server.jobs.job_gateway import JobGateway
from convlens_server.quick.inference_service import InferenceService
from convlens_server.servicers.admin import AdminServicer
from convlens_server.servicers.attack import AttackServicer
from convlens_server.servicers.attribution import AttributionServicer
from convlens_server.servicers.collection import CollectionServicer
from convlens_server.servicers.inspection import InspectionServicer
from convlens_server.servicers.job import JobServicer
from convlens_server.servicers.model import ModelServicer
from convlens_server.servicers.open_inference import OpenInferenceServicer
from convlens_server.servicers.operations import OperationsServicer
from convlens_server.servicers.style import StyleServicer
from convlens_server.servicers.unit import UnitServicer
from convlens_server.serving.executor import Executor
from convlens_server.serving.health import Health
from convlens_server.serving.interceptors import MiddlewareInterceptor, logged, with_status
from convlens_server.serving.quotas import Quotas
from convlens_server.settings import ServerSettings
from convlens_server.telemetry.levels import watch
from convlens_server.telemetry.metrics import Metrics
from convlens_server.telemetry.traces import traced
from convlens_workers.jobs import JobStore

log = logging.getLogger("convlens.server")

SERVICES: Final = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (model_pb2, "ModelService"),
        (inspection_pb2, "InspectionService"),
        (attribution_pb2, "AttributionService"),
        (attack_pb2, "AttackService"),
        (style_pb2, "StyleService"),
        (unit_pb2, "UnitService"),
        (collection_pb2, "CollectionService"),
        (job_pb2, "JobService"),
        (operations_pb2, "Operations"),
        (admin_pb2, "AdminService"),
        (open_inference_pb2, "GRPCInferenceService"),
    )
)

METADATA_BYTES: Final = 16 << 10
"""Headers of a call together, its token among them; with more, it is refused."""

LONG_SERVICES: Final = frozenset(
    ("convlens.v1.CollectionService", "convlens.v1.JobService", "google.longrunning.Operations")
)
"""Those that need Redis."""


class App:
    """A server that is listening, until `stop`; `async with await App.start(settings) as app` does both."""

    def __init__(self, settings: ServerSettings) -> None:
        providers = choose(settings.device, settings.device_megabytes << 20)
        on_gpu = providers[0][0] == CUDA

        def threads() -> int:
            # Each number has sessions of its own: on a GPU, where it matters little, copies of the weights.
            return settings.threads if on_gpu else self.executor.threads(settings.threads)

        self.models = LoadedModels(
            ModelRepository(settings.models or default_root()),
            Compute(
                threads,
                providers,
                demanded=settings.device.startswith("cuda"),
                batching=settings.batching == "on" or (settings.batching == "auto" and on_gpu),
            ),
            session_bytes=settings.session_megabytes << 20,
            max_models=settings.max_models,
        )
        self.lanes = lanes(settings, on_gpu=on_gpu)
        self.executor = Executor(
            self.lanes,
            settings.max_waiting,
            settings.max_wait,
            settings.max_streams,
            settings.max_waiting_megabytes << 20,
        )
        self.address = ""
        self._settings = settings
        self._bodies = bodies(settings)
        self._long = JobGateway(JobStore.open(settings) if settings.redis else None, settings.max_long_calls)
        self._collections = CollectionGateway(settings)
        long = [name for name in SERVICES if name in LONG_SERVICES]
        quick = [name for name in SERVICES if name not in LONG_SERVICES]
        self._health = Health(quick, long, self._long.ping if settings.redis else None)
        self._metrics = Metrics()
        self._end_metrics: Callable[[], None] = lambda: None
        self._probes: grpc.aio.Server | None = None
        identity = Identity(settings)
        if identity.open and not settings.open_to_all and not is_loopback(settings.listen):
            remedy = "configure who may call, or set CONVLENS_OPEN_TO_ALL"
            raise FailedPrecondition(f"{settings.listen} is no loopback address: {remedy}")
        quotas = Quotas(settings.tenant_rate, settings.tenant_calls)
        self._server = grpc.aio.server(
            interceptors=[
                MiddlewareInterceptor(
                    logged,
                    self._metrics.middleware,
                    traced,
                    with_status,
                    identity.middleware,
                    quotas.middleware,
                )
            ],
            options=[
                ("grpc.max_receive_message_length", settings.max_request_bytes),
                ("grpc.max_metadata_size", METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", METADATA_BYTES),
                # A taken port is an error, not a second server behind it, unless that is asked for.
                ("grpc.so_reuseport", int(settings.share_port)),
                *_ages(settings.connection_age, settings.grace),
            ],
        )
        self._add_services()

    @classmethod
    async def start(cls, settings: ServerSettings) -> Self:
        """A listening server. Raises Unavailable when the address cannot be had."""
        app = cls(settings)
        host, _, _ = settings.listen.rpartition(":")
        try:
            port = app._listen()
        except (RuntimeError, OSError) as error:
            await app.stop(0)
            raise Unavailable(f"cannot listen on {settings.listen}: {error}") from error
        app.address = f"{host}:{port}"
        await app._health.alive()
        await app._server.start()
        if app._probes is not None:
            await app._probes.start()
        try:
            app._tell()
            await app._warm()
        except ConvLensError:
            await app.stop(0)
            raise
        await app._health.ready()
        return app

    def _tell(self) -> None:
        """Let Prometheus ask, if that is wanted: also while models warm. Raises Unavailable."""
        metrics, settings = self._metrics, self._settings
        metrics.expect(SERVICES)
        watch(
            metrics,
            health=self._health,
            executor=self.executor,
            lanes=self.lanes,
            models=self.models,
        )
        if queues := self._long.collector():
            metrics.collect(queues)
        try:
            self._end_metrics = metrics.serve(settings.metrics_listen)
        except OSError as error:
            text = f"cannot tell metrics on {settings.metrics_listen}: {error}"
            raise Unavailable(text) from error

    async def _warm(self) -> None:
        """Load models, and run each forward and back as a single call would, and as one of many would."""
        for name in self._settings.warm:
            log.info("warming %s", name)
            await self.executor.run(warm, self.models, reference(name))

    def _listen(self) -> int:
        settings = self._settings
        if settings.health_listen:
            self._probes = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._probes)
            self._probes.add_insecure_port(settings.health_listen)
        if settings.tls_certificate and settings.tls_key:
            pems = Pems(settings.tls_certificate, settings.tls_key, settings.tls_client_authorities)
            return self._server.add_secure_port(settings.listen, server_credentials(pems))
        return self._server.add_insecure_port(settings.listen)

    async def stop(self, grace: float | None = None) -> None:
        """Say NOT_SERVING, end what only waits for jobs, let the other calls finish for `grace` seconds."""
        await self._health.draining()
        self._long.stop()
        await self._server.stop(self._settings.grace if grace is None else grace)
        if self._probes is not None:
            await self._probes.stop(None)
        await asyncio.to_thread(self._end_metrics)
        await self._long.close()
        await self._collections.close()
        self.executor.close()
        if self._bodies is not None:
            self._bodies.close()
        self.models.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _add_services(self) -> None:
        executor = (
            CachingExecutor(self.executor, self._bodies, self.models.repository)
            if self._bodies
            else self.executor
        )
        settings = self._settings
        values = settings.max_value_megabytes << 20
        quick = InferenceService(self.models, executor, settings.max_batch_pixels, values)
        limits = Limits(settings.max_job_pixels, settings.max_job_cost)
        server = self._server
        model_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(quick), server)
        inspection_pb2_grpc.add_InspectionServiceServicer_to_server(InspectionServicer(quick), server)
        attribution_pb2_grpc.add_AttributionServiceServicer_to_server(AttributionServicer(quick), server)
        attack_pb2_grpc.add_AttackServiceServicer_to_server(AttackServicer(quick), server)
        style_pb2_grpc.add_StyleServiceServicer_to_server(StyleServicer(quick), server)
        unit_pb2_grpc.add_UnitServiceServicer_to_server(UnitServicer(quick), server)
        collections = CollectionServicer(quick, self._long, self._collections)
        collection_pb2_grpc.add_CollectionServiceServicer_to_server(collections, server)
        jobs = JobServicer(quick, self._long, self._collections, limits)
        job_pb2_grpc.add_JobServiceServicer_to_server(jobs, server)
        operations_pb2_grpc.add_OperationsServicer_to_server(OperationsServicer(self._long), server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminServicer(quick), server)
        inference = OpenInferenceServicer(quick, lambda: self._health.is_ready)
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)


LANES_ON_GPU: Final = 32
"""Twice the images that a pass takes unless a manifest says otherwise: one batch runs, the next one forms."""


def lanes(settings: ServerSettings, *, on_gpu: bool) -> int:
    """How many there are: as many as CPUs, and more where calls wait for a GPU, unless it is said."""
    said = "lanes" in settings.model_fields_set
    return max(settings.lanes, LANES_ON_GPU) if on_gpu and not said else settings.lanes


def bodies(settings: ServerSettings) -> ReplyCache | None:
    """Where replies are remembered, if they are."""
    if not settings.cache_seconds:
        return None
    return ReplyCache(
        settings.cache_redis or settings.redis,
        settings.cache_seconds,
        settings.cache_entry_kilobytes << 10,
        settings.cache_megabytes << 20,
    )


def _ages(seconds: float, grace: float) -> list[tuple[str, int]]:
    """Options for connections that end when they are old, their calls after the grace."""
    if not seconds:
        return []
    return [
        ("grpc.max_connection_age_ms", int(seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", int(max(grace, 1.0) * 1000)),
    ]


def is_loopback(listen: str) -> bool:
    """Whether "host:port" can be reached from this machine alone."""
    host = listen.rpartition(":")[0].strip("[]")
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
