"""How messages become what the calls return: by the dataclass of the same name, field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from convlens.errors import from_status
from convlens.v1 import (
    admin_pb2,
    adversarial_pb2,
    attack_pb2,
    attribution_pb2,
    collection_pb2,
    inspection_pb2,
    job_pb2,
    model_pb2,
    style_pb2,
    target_pb2,
    tensor_pb2,
    unit_pb2,
)
from convlens_client import reports
from convlens_client.results import (
    Added,
    Artifact,
    Box,
    Certificate,
    Classification,
    Collection,
    CollectionImage,
    Descent,
    FeatureSet,
    JobMetadata,
    Layer,
    LoadedModel,
    Model,
    Neighbour,
    Neighbours,
    Prediction,
    QueueStats,
    RandomisedLayer,
    RankCorrelation,
    RobustnessAlarms,
    RobustnessPoint,
    Snapshot,
    TopActivation,
    UnitHit,
)

_CLASSES: dict[type[Message], type] = {
    admin_pb2.LoadedModel: LoadedModel,
    adversarial_pb2.DefenceReport: reports.DefenceReport,
    adversarial_pb2.EnsembleMember: reports.EnsembleMember,
    adversarial_pb2.EnsembleReport: reports.EnsembleReport,
    adversarial_pb2.PatchReport: reports.PatchReport,
    adversarial_pb2.PrintedReport: reports.PrintedReport,
    adversarial_pb2.PrintedRow: reports.PrintedRow,
    adversarial_pb2.SubstituteReport: reports.SubstituteReport,
    adversarial_pb2.TransferReport: reports.TransferReport,
    attack_pb2.AttackResult: reports.AttackResult,
    attack_pb2.Certificate: Certificate,
    attack_pb2.RobustnessAlarms: RobustnessAlarms,
    attack_pb2.RobustnessPoint: RobustnessPoint,
    attribution_pb2.CheckRandomisationResponse: RandomisedLayer,
    attribution_pb2.RankCorrelation: RankCorrelation,
    collection_pb2.AddImagesResponse: Added,
    collection_pb2.Collection: Collection,
    collection_pb2.CollectionImage: CollectionImage,
    collection_pb2.FeatureSet: FeatureSet,
    collection_pb2.FindNearestResponse: Neighbours,
    collection_pb2.Neighbour: Neighbour,
    collection_pb2.TopActivation: TopActivation,
    inspection_pb2.Classification: Classification,
    job_pb2.DatasetExamples: reports.DatasetExamples,
    job_pb2.Descent: Descent,
    job_pb2.JobMetadata: JobMetadata,
    job_pb2.QueueStats: QueueStats,
    job_pb2.VisualisationReport: reports.VisualisationReport,
    model_pb2.Layer: Layer,
    model_pb2.Model: Model,
    style_pb2.TrainStyleReport: reports.TrainStyleReport,
    target_pb2.Prediction: Prediction,
    tensor_pb2.TensorHeader: Artifact,
    unit_pb2.Box: Box,
    unit_pb2.UnitHit: UnitHit,
}


def freeze(message: Message) -> Any:
    """The dataclass of a message, field by field; values of enums become names, such as "RUNNING"."""
    kind = _CLASSES[type(message)]
    return kind(**{field.name: _value(message, field.name) for field in dataclasses.fields(kind)})


def snapshot(operation: operations_pb2.Operation) -> Snapshot:
    """The operation with its metadata, error and artifact headers unpacked."""
    metadata, result = job_pb2.JobMetadata(), job_pb2.JobResult()
    operation.metadata.Unpack(metadata)
    operation.response.Unpack(result)
    error = from_status(operation.error) if operation.HasField("error") else None
    kind = result.WhichOneof("report")
    report = freeze(getattr(result, kind)) if kind else None
    return Snapshot(
        operation.name,
        operation.done,
        freeze(metadata),
        error,
        _plain(result.artifacts),
        report,
        freeze(result.descent) if result.HasField("descent") else None,
        _plain(result.warnings),
    )


def _value(message: Message, name: str) -> Any:
    value, enum = getattr(message, name), message.DESCRIPTOR.fields_by_name[name].enum_type
    if enum is None:
        return _plain(value)
    nothing: str = enum.values_by_number[0].name
    return enum.values_by_number[value].name.removeprefix(nothing.removesuffix("UNSPECIFIED"))


def _plain(value: Any) -> Any:
    match value:
        case Timestamp():
            return value.ToDatetime(tzinfo=UTC) if value.ByteSize() else None
        case model_pb2.ModelRef():
            return f"{value.name}/{value.version}" if value.HasField("version") else value.name
        case Message():
            return freeze(value)
        case str() | bytes():
            return value
        case Mapping():
            return dict(value)
        case Sequence():
            return tuple(_plain(item) for item in value)
    return value
