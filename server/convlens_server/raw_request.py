"""An inference request whose tensors stay where gRPC has put them.

Protobuf copies raw contents twice, when it parses a message and when they are read, and parses the rest anew
though it is the same from one call of a client to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from convlens.inference import open_inference_pb2 as pb
from convlens.serialised import DELIMITED, field_number, value_at

RAW: Final = field_number(pb.ModelInferRequest, "raw_input_contents") << 3 | DELIMITED
"""How a field of raw contents begins."""
MOST_FIELDS: Final = 64
"""Fields that are looked at; what follows is left to protobuf, which is faster at many small ones."""
LARGEST_KEPT: Final = 4096
"""Bytes of a message without raw contents that is kept parsed."""


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request.

    Attributes:
        message: all but the raw contents; others may have the same, so that nobody may change it.
        raw: the raw contents.
    """

    message: pb.ModelInferRequest
    raw: tuple[memoryview | bytes, ...]

    @classmethod
    def read(cls, data: bytes) -> Self:
        """From the wire. Raises google.protobuf.message.DecodeError."""
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


@lru_cache(maxsize=256)
def _parsed(head: bytes) -> pb.ModelInferRequest:
    return pb.ModelInferRequest.FromString(head)
