"""The server put together: settings in, a running grpc.aio server out."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from convlens.errors import ConvLensError, FailedPrecondition, Unavailable
from convlens_models.repository import ModelRepository, default_root
from convlens_server.backends.models import LoadedModels
from convlens_server.backends.providers import Compute, choose, on_gpu
from convlens_server.backends.warming import reference, warm
from convlens_server.cache.caching_executor import CachingExecutor
from convlens_server.cache.reply_cache import ReplyCache
from convlens_server.collections.gateway import CollectionGateway
from convlens_server.edge.connections import options
from convlens_server.edge.edge import Edge
from convlens_server.identity import Identity
from convlens_server.identity.certificates import server_credentials
from convlens_server.jobs.job_gateway import JobGateway
from convlens_server.quick.inference_service import InferenceService
from convlens_server.servicers.base import Gateways
from convlens_server.services import CACHEABLE, LONG_SERVICES, SERVICES, TABLE
from convlens_server.serving.executor import Executor
from convlens_server.serving.health import Health
from convlens_server.serving.interceptors import MiddlewareInterceptor, logged, with_status
from convlens_server.serving.left import GRPC, LEFT
from convlens_server.serving.quotas import Quotas
from convlens_server.settings import ServerSettings
from convlens_server.telemetry.levels import watch
from convlens_server.telemetry.metrics import Metrics
from convlens_server.telemetry.traces import traced
from convlens_workers.jobs import JobStore

log = logging.getLogger("convlens.server")


class App:
    """A server that is listening, until `stop`; `async with await App.start(settings) as app` does both."""

    def __init__(self, settings: ServerSettings) -> None:
        identity = self._identity = Identity(settings)
        self._checking: asyncio.Task[None] | None = None
        if identity.open and not settings.open_to_all and not is_loopback(settings.listen):
            remedy = "configure who may call, or set CONVLENS_OPEN_TO_ALL"
            raise FailedPrecondition(f"{settings.listen} is no loopback address: {remedy}")
        self.address = ""
        self._settings = settings
        providers = choose(settings)
        self.executor = Executor(settings, on_gpu=on_gpu(providers))
        compute = Compute.of(settings, providers, self.executor.threads)
        self.models = LoadedModels(ModelRepository(settings.models or default_root()), compute, settings)
        self._replies = ReplyCache(settings) if settings.cache_seconds else None
        self._jobs = JobGateway(JobStore.open(settings) if settings.redis else None, settings.max_long_calls)
        self._collections = CollectionGateway(settings)
        quick = [name for name in SERVICES if name not in LONG_SERVICES]
        self._health = Health(quick, sorted(LONG_SERVICES), self._jobs.ping if settings.redis else None)
        self._metrics = Metrics()
        self._end_metrics: Callable[[], None] = lambda: None
        self._probes: grpc.aio.Server | None = None
        quotas = Quotas(settings, waits_for_others=self.executor.scheduler.waits_for_others)
        middleware = (logged, self._metrics.middleware, traced, with_status, identity.middleware)
        interceptor = MiddlewareInterceptor(*middleware, quotas.middleware, edge=Edge(settings))
        GRPC.addFilter(LEFT)
        # A taken port is an error, not a second server behind it, unless that is asked for.
        shared = ("grpc.so_reuseport", int(settings.share_port))
        self._server = grpc.aio.server(
            interceptors=[interceptor], options=[*options(settings, settings.grace), shared]
        )
        self._add_services()

    def _add_services(self) -> None:
        executor = (
            CachingExecutor(self.executor, self._replies, self.models.repository, CACHEABLE)
            if self._replies
            else self.executor
        )
        inference = InferenceService(self.models, executor, self._settings)
        gateways = Gateways(inference, self._jobs, self._collections, lambda: self._health.is_ready)
        for service in TABLE:
            service.add(gateways, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    @classmethod
    async def start(cls, settings: ServerSettings) -> Self:
        """A listening server. Raises Unavailable when the address cannot be had."""
        app = cls(settings)
        host, _, _ = settings.listen.rpartition(":")
        try:
            await app._jobs.check()
            port = app._listen()
        except ConvLensError:
            await app.stop(0)
            raise
        except (RuntimeError, OSError) as error:
            await app.stop(0)
            raise Unavailable(f"cannot listen on {settings.listen}: {error}") from error
        app.address = f"{host}:{port}"
        await app._health.alive()
        await app._server.start()
        if not app._identity.open:
            app._checking = asyncio.create_task(app._identity.keep_checking())
        if app._probes is not None:
            await app._probes.start()
        try:
            app._serve_metrics()
            await app._warm()
        except ConvLensError:
            await app.stop(0)
            raise
        await app._health.ready()
        return app

    def _serve_metrics(self) -> None:
        """Answer Prometheus, if that is wanted, also while models warm. Raises Unavailable."""
        metrics, settings = self._metrics, self._settings
        metrics.expect(SERVICES)
        watch(metrics, health=self._health, executor=self.executor, models=self.models)
        if queues := self._jobs.collector():
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
        """Take the addresses of the server and of its probes, and return the server's port."""
        settings = self._settings
        if settings.health_listen:
            self._probes = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._probes)
            self._probes.add_insecure_port(settings.health_listen)
        if credentials := server_credentials(settings):
            return self._server.add_secure_port(settings.listen, credentials)
        return self._server.add_insecure_port(settings.listen)

    async def stop(self, grace: float | None = None) -> None:
        """Say NOT_SERVING, end what only waits for jobs, let the other calls finish for `grace` seconds."""
        await self._health.draining()
        self._jobs.stop()
        await self._server.stop(self._settings.grace if grace is None else grace)
        if self._checking is not None:
            self._checking.cancel()
        if self._probes is not None:
            await self._probes.stop(None)
        await asyncio.to_thread(self._end_metrics)
        await self._jobs.close()
        await self._collections.close()
        self.executor.close()
        if self._replies is not None:
            self._replies.close()
        self.models.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def is_loopback(listen: str) -> bool:
    """Whether "host:port" can be reached from this machine alone."""
    host = listen.rpartition(":")[0].strip("[]")
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
