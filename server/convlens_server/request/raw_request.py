"""An inference request whose tensors stay where gRPC has put them.

Protobuf copies raw contents twice, when it parses a message and when they are read, and parses the rest anew
though it is the same from one call of a client to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final, Self

from convlens.errors import InvalidArgument
from convlens.inference import open_inference_pb2 as pb
from convlens.serialised import DELIMITED, field_number, value_at
from convlens.v1 import model_pb2
from convlens_models.importing.publish import GRADIENT

RAW: Final = field_number(pb.ModelInferRequest, "raw_input_contents") << 3 | DELIMITED
"""The tag that a field of raw contents begins with."""
MOST_FIELDS: Final = 64
"""The fields that are looked at; the rest is left to protobuf, which is faster at many small ones."""
LARGEST_KEPT: Final = 4096
"""The length in bytes up to which a message without raw contents is kept parsed."""


@dataclass(frozen=True)
class Kind:
    """The name of a model in this protocol: its name in the repository, and what its ending makes of it."""

    name: str
    ending: str

    @classmethod
    def of(cls, name: str) -> Kind:
        """The parts of the name that a client uses; the repository has no names that end so."""
        return cls(name.removesuffix(GRADIENT), GRADIENT) if name.endswith(GRADIENT) else cls(name, "")


@dataclass(frozen=True, slots=True)
class RawRequest:
    """An inference request.

    Attributes:
        message: all but the raw contents; other requests may share it, so that nobody may change it.
        raw: the raw contents, one for each input.
    """

    DESCRIPTOR: ClassVar = pb.ModelInferRequest.DESCRIPTOR
    message: pb.ModelInferRequest
    raw: tuple[memoryview | bytes, ...]

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The request in `data` from the wire. Raises google.protobuf.message.DecodeError."""
        view, rest, raw, done, position = memoryview(data), [], [], 0, 0
        for _ in range(MOST_FIELDS):
            begin, end = value_at(data, position)
            if not 0 < end <= len(data):
                break
            if data[position] == RAW:
                raw.append(view[begin:end])
                rest.append(data[done:position])
                done = end
            position = end
        head = b"".join((*rest, data[done:]))
        message = _parsed(head) if len(head) <= LARGEST_KEPT else pb.ModelInferRequest.FromString(head)
        return cls(message, (*raw, *message.raw_input_contents))

    @property
    def model(self) -> model_pb2.ModelRef:
        """The model that the request names. Raises InvalidArgument."""
        return reference(Kind.of(self.message.model_name).name, self.message.model_version, "model_version")

    def stated(self) -> Iterator[bytes | memoryview]:
        """The parts of the request that its reply follows from: all but the version and the call's own id."""
        head = pb.ModelInferRequest()
        head.CopyFrom(self.message)
        for field in ("id", "model_version", "raw_input_contents"):
            head.ClearField(field)
        for part in (head.SerializeToString(deterministic=True), *self.raw):
            yield len(part).to_bytes(8, "little")
            yield part


def reference(name: str, number: str, field: str) -> model_pb2.ModelRef:
    """The model of a name and a version, which is empty for the newest. Raises InvalidArgument."""
    if not number:
        return model_pb2.ModelRef(name=name)
    if not (number.isascii() and number.isdecimal() and 0 < len(number) < 10):
        raise InvalidArgument.of(field, number, "empty or a whole number")
    return model_pb2.ModelRef(name=name, version=int(number))


@lru_cache(maxsize=256)
def _parsed(head: bytes) -> pb.ModelInferRequest:
    return pb.ModelInferRequest.FromString(head)
