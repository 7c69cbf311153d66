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
from convlens_server.jobs.admission import Limits
from convlens_server.servicers.admin import AdminServicer
from convlens_server.servicers.attack import AttackServicer
from convlens_server.servicers.attribution import AttributionServicer
from convlens_server.servicers.base import Gateways
from convlens_server.servicers.collection import CollectionServicer
from convlens_server.servicers.inspection import InspectionServicer
from convlens_server.servicers.job import JobServicer
from convlens_server.servicers.model import ModelServicer
from convlens_server.servicers.open_inference import OpenInferenceServicer
from convlens_server.servicers.operations import OperationsServicer
from convlens_server.servicers.style import StyleServicer
from convlens_server.servicers.unit import UnitServicer


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


def _job_servicer(gateways: Gateways) -> JobServicer:
    settings = gateways.inference.settings
    limits = Limits(settings.max_job_pixels, settings.max_job_cost)
    return JobServicer(gateways.inference, gateways.jobs, gateways.collections, limits)


TABLE: Final = (
    Service(model_pb2_grpc, ModelServicer),
    Service(inspection_pb2_grpc, InspectionServicer, ("Classify", "GetActivations")),
    Service(attribution_pb2_grpc, AttributionServicer, ("Attribute", "CheckRandomisation")),
    Service(attack_pb2_grpc, AttackServicer, ("Attack", "MeasureRobustness")),
    Service(style_pb2_grpc, StyleServicer, ("Stylise",)),
    Service(unit_pb2_grpc, UnitServicer, ("GetUnitPatterns", "GetDiscrepancyMaps")),
    Service(collection_pb2_grpc, CollectionServicer, needs_redis=True),
    Service(job_pb2_grpc, _job_servicer, needs_redis=True),
    Service(operations_pb2_grpc, OperationsServicer, needs_redis=True),
    Service(admin_pb2_grpc, AdminServicer),
    Service(open_inference_pb2_grpc, OpenInferenceServicer, ("ModelInfer",)),
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
