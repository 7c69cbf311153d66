"""The services of the server: registration, reflection, health and metrics follow from one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Final, NamedTuple

import grpc
from google.longrunning import operations_pb2_grpc
from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from convlens.inference import open_inference_pb2_grpc
from convlens.v1 import (
    admin_pb2_grpc,
    attack_pb2_grpc,
    attribution_pb2_grpc,
    collection_pb2_grpc,
    inspection_pb2_grpc,
    job_pb2_grpc,
    model_pb2_grpc,
    style_pb2_grpc,
    unit_pb2_grpc,
)
from convlens_server.collections.gateway import CollectionGateway
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


class Gateways(NamedTuple):
    """The gateways that servicers hand their calls on to.

    Attributes:
        inference: runs networks in worker threads.
        jobs: reaches the job store, and makes room for calls that last as long as a job.
        collections: reaches the index and the files of collections.
        is_ready: tells whether the server takes calls.
    """

    inference: InferenceService
    jobs: JobGateway
    collections: CollectionGateway
    is_ready: Callable[[], bool]

    @property
    def limits(self) -> Limits:
        """The limits of one job, from the settings."""
        return Limits(self.inference.settings.max_job_pixels, self.inference.settings.max_job_cost)


class Service(NamedTuple):
    """A row of the table: one gRPC service.

    Attributes:
        generated: the module that protoc has generated for its stubs.
        servicer: makes the object that answers its calls.
        cacheable: names of the methods whose replies follow from the request alone.
        needs_redis: whether its methods are of no use without Redis.
    """

    generated: ModuleType
    servicer: Callable[[Gateways], object]
    cacheable: tuple[str, ...] = ()
    needs_redis: bool = False

    @property
    def descriptor(self) -> ServiceDescriptor:
        """The descriptor of the service, the only one of its proto."""
        messages = import_module(self.generated.__name__.removesuffix("_grpc"))
        descriptor: ServiceDescriptor
        (descriptor,) = messages.DESCRIPTOR.services_by_name.values()
        return descriptor

    def add(self, gateways: Gateways, server: grpc.aio.Server) -> None:
        """Have the server answer calls of this service."""
        register = getattr(self.generated, f"add_{self.descriptor.name}Servicer_to_server")
        register(self.servicer(gateways), server)


TABLE: Final = (
    Service(model_pb2_grpc, lambda to: ModelServicer(to.inference)),
    Service(inspection_pb2_grpc, lambda to: InspectionServicer(to.inference), ("Classify", "GetActivations")),
    Service(
        attribution_pb2_grpc,
        lambda to: AttributionServicer(to.inference),
        ("Attribute", "CheckRandomisation"),
    ),
    Service(attack_pb2_grpc, lambda to: AttackServicer(to.inference), ("Attack", "MeasureRobustness")),
    Service(style_pb2_grpc, lambda to: StyleServicer(to.inference), ("Stylise",)),
    Service(unit_pb2_grpc, lambda to: UnitServicer(to.inference), ("GetUnitPatterns", "GetDiscrepancyMaps")),
    Service(
        collection_pb2_grpc,
        lambda to: CollectionServicer(to.inference, to.jobs, to.collections),
        needs_redis=True,
    ),
    Service(
        job_pb2_grpc,
        lambda to: JobServicer(to.inference, to.jobs, to.collections, to.limits),
        needs_redis=True,
    ),
    Service(operations_pb2_grpc, lambda to: OperationsServicer(to.jobs), needs_redis=True),
    Service(admin_pb2_grpc, lambda to: AdminServicer(to.inference)),
    Service(
        open_inference_pb2_grpc,
        lambda to: OpenInferenceServicer(to.inference, to.is_ready),
        ("ModelInfer",),
    ),
)
SERVICES: Final = tuple(service.descriptor.full_name for service in TABLE)
LONG_SERVICES: Final = frozenset(service.descriptor.full_name for service in TABLE if service.needs_redis)
"""Full names of the services that need Redis."""
CACHEABLE: Final[Mapping[Descriptor, type[Message]]] = {
    method.input_type: GetMessageClass(method.output_type)
    for service in TABLE
    for method in map(service.descriptor.methods_by_name.__getitem__, service.cacheable)
}
"""The type of reply to each type of request whose replies may come from the cache."""
