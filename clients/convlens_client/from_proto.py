"""How replies become what the calls return: the dataclass with the name of the message, field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any, Final

from google.longrunning import operations_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from convlens.errors import from_status
from convlens.v1 import image_pb2, job_pb2, model_pb2
from convlens_client import reports, results
from convlens_client.contract import values
from convlens_client.results import Snapshot

RENAMED: Final = {
    "AddImagesResponse": "Added",
    "CheckRandomisationResponse": "RandomisedLayer",
    "FindNearestResponse": "Neighbours",
    "TensorHeader": "Artifact",
}
"""The classes that are not called as their messages."""


def from_proto(message: Message) -> Any:
    """The dataclass of a message, field by field; values of enums become names, such as "RUNNING"."""
    name = RENAMED.get(message.DESCRIPTOR.name, message.DESCRIPTOR.name)
    kind = getattr(results, name, None) or getattr(reports, name)
    return kind(**{field.name: _read(message, field) for field in dataclasses.fields(kind)})


def field(name: str) -> Callable[[Message], Any]:
    """A reader of one field of a reply: a dataclass, or a tuple of them where the field is repeated."""
    return lambda reply: _plain(getattr(reply, name))


def snapshot(operation: operations_pb2.Operation) -> Snapshot:
    """The operation with its metadata, error and artifact headers unpacked."""
    metadata, result = job_pb2.JobMetadata(), job_pb2.JobResult()
    operation.metadata.Unpack(metadata)
    operation.response.Unpack(result)
    error = from_status(operation.error) if operation.HasField("error") else None
    kind = result.WhichOneof("report")
    report = from_proto(getattr(result, kind)) if kind else None
    return Snapshot(
        operation.name,
        operation.done,
        from_proto(metadata),
        error,
        _plain(result.artifacts),
        report,
        from_proto(result.descent) if result.HasField("descent") else None,
        _plain(result.warnings),
    )


def described(reply: job_pb2.GetJobRequestResponse) -> results.JobRequest:
    """What a job was asked for; of the technique's fields, all that hold no picture."""
    request = reply.request
    technique = request.WhichOneof("technique") or ""
    params = getattr(request, technique)
    return results.JobRequest(
        technique,
        _plain(request.model),
        request.seed,
        {name: value for name, value in _said(params).items() if value not in (None, {}, [])},
        _plain(reply.pictures),
        dict(request.tags),
        request,
    )


def _read(message: Message, field: dataclasses.Field[Any]) -> Any:
    """The value of a field; None where the message has none, and the dataclass knows of that."""
    absent = message.DESCRIPTOR.fields_by_name[field.name].has_presence and not message.HasField(field.name)
    return None if absent and "None" in str(field.type) else _value(message, field.name)


def _said(message: Message) -> dict[str, Any]:
    """What a message says: by name, choices by theirs; None for a picture."""
    return {
        field.name: [told for item in value if (told := _told(field, item)) is not None]
        if field.is_repeated
        else _told(field, value)
        for field, value in message.ListFields()
    }


def _told(field: Any, value: Any) -> Any:
    if field.message_type == image_pb2.Image.DESCRIPTOR:
        return None
    if field.message_type:
        return {name: item for name, item in _said(value).items() if item is not None}
    if field.enum_type:
        return next((name for name, number in values(field.enum_type).items() if number == value), value)
    return value


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
            return from_proto(value)
        case str() | bytes():
            return value
        case Mapping():
            return dict(value)
        case Sequence():
            return tuple(_plain(item) for item in value)
    return value
