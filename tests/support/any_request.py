"""Requests that no client would send: any message of any service, drawn from its descriptor."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Any, Final, NamedTuple

import grpc
import numpy as np
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st
from PIL import Image as PILImage

from convlens import wire
from convlens.inference import open_inference_pb2 as oip
from convlens.v1 import bounds_pb2, image_pb2, model_pb2, style_pb2, tensor_pb2

DEEPEST: Final = 6
READ: Final = 40
"""Replies of a stream that are read before its call is ended."""
INT32: Final = (-(1 << 31), (1 << 31) - 1)
INT64: Final = (-(1 << 63), (1 << 63) - 1)
RANGES: Final = {
    FieldDescriptor.CPPTYPE_INT32: INT32,
    FieldDescriptor.CPPTYPE_INT64: INT64,
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
FLOATS: Final = (0.0, 0.5, 1.0, -1.0, 30.0, 1e-45, 3.4e38, float("nan"), float("inf"), float("-inf"))
COLLECTION: Final = "pictures"
PICTURE: Final = "0.png"
REQUEST_ID: Final = "11111111-1111-1111-1111-111111111111"
OPERATION: Final = f"operations/{hashlib.sha256(REQUEST_ID.encode()).hexdigest()[:32]}"
KNOWN: Final = {
    "collection": COLLECTION,
    "id": COLLECTION,
    "name": OPERATION,
    "artifact": "image",
    "base": OPERATION,
    "resume": OPERATION,
    "convlens.v1.AddImagesRequest.collection": "other",
    "convlens.v1.CreateCollectionRequest.id": "other",
    "convlens.v1.GetImageRequest.image": PICTURE,
    "convlens.v1.FindNearestRequest.name": PICTURE,
}
"""What fields mean that is there, by their full names or by their own."""
TEXTS: Final = (
    *("features.conv1", "features.relu4_1", "classifier", "avgpool", "fuzz", "fuzz/1", "picture.png"),
    *("image", "cotangent", "layer", "rule", "gradient", "FP32", "UINT8", "1", "0-0", "tiny.gradient"),
    *("", " ", "../patterns", "/etc/passwd", "http://127.0.0.1/x", "a\x00b", "{}", "%s%n", "🌱" * 40),
    *("x" * 65, "y" * 5000, "operations/", "operations/../x", REQUEST_ID),
    *("state=RUNNING", "victim", "victim:x", "convlens.v1.JobService", "-1", "9" * 30),
)
LAYERS: Final = ("features.conv1", "features.relu4_1", "classifier", "avgpool")
MODELS: Final = ("", "tiny", "patterns", "../tiny", "/tiny", "tiny/1", "https://x/tiny", "no", "TINY\n")


class Method(NamedTuple):
    """A method of a service, and what it takes."""

    path: str
    descriptor: MethodDescriptor
    kind: type[Message]

    @property
    def streams(self) -> tuple[bool, bool]:
        return self.descriptor.client_streaming, self.descriptor.server_streaming


def methods(services: Any) -> list[Method]:
    """All methods of services, by their full names."""
    pool = descriptor_pool.Default()
    return [
        Method(f"/{service}/{method.name}", method, message_factory.GetMessageClass(method.input_type))
        for service in services
        for method in pool.FindServiceByName(service).methods
    ]


def call(channel: grpc.Channel, method: Method, requests: list[Message], timeout: float) -> grpc.StatusCode:
    """How a call with those requests, or with the first of them, ends."""
    takes_many, gives_many = method.streams
    kind = f"{'stream' if takes_many else 'unary'}_{'stream' if gives_many else 'unary'}"
    stub = getattr(channel, kind)(method.path, request_serializer=method.kind.SerializeToString)
    given = iter(requests) if takes_many else requests[0]
    try:
        replies = stub(given, timeout=timeout)
        if gives_many:
            for _ in islice(replies, READ):
                pass
            replies.cancel()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def requests(method: Method) -> st.SearchStrategy[list[Message]]:
    """What to call a method with."""
    most = 3 if method.streams[0] else 1
    return st.lists(messages(method.kind.DESCRIPTOR), min_size=1, max_size=most)


@cache
def messages(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Any]:
    """Messages of a type, sound in most fields, so that they get past the first check."""
    special = SPECIAL.get(descriptor.full_name)
    return special() if special else _message(descriptor, depth)


@st.composite
def _message(draw: st.DrawFn, descriptor: Descriptor, depth: int) -> Message:
    message = message_factory.GetMessageClass(descriptor)()
    alone = [field for field in descriptor.fields if field.containing_oneof is None or _synthetic(field)]
    wanted = draw(st.integers(0, 1 << len(alone))) & draw(st.integers(0, 1 << len(alone)))
    careless = draw(st.integers(0, 7)) == 0
    for position, field in enumerate(alone):
        if wanted >> position & 1 or (_needed(field) and not careless):
            _set(draw, message, field, depth)
    for oneof in descriptor.oneofs:
        if not _synthetic(oneof.fields[0]) and draw(st.integers(0, 9)):
            _set(draw, message, draw(st.sampled_from(list(oneof.fields))), depth)
    return message


def _synthetic(field: FieldDescriptor) -> bool:
    """Whether its oneof is only how `optional` is written down."""
    return field.containing_oneof is not None and field.containing_oneof.name == f"_{field.name}"


def _bounds(field: FieldDescriptor) -> bounds_pb2.Bounds:
    return field.GetOptions().Extensions[bounds_pb2.bounds]


def _needed(field: FieldDescriptor) -> bool:
    bounds = _bounds(field)
    return bounds.required or (field.is_repeated and bounds.min >= 1)


def _set(draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    if depth > DEEPEST:
        return
    value = _value(field, depth)
    if not field.is_repeated:
        if field.message_type:
            getattr(message, field.name).CopyFrom(draw(value))
        else:
            setattr(message, field.name, draw(value))
        return
    count = draw(st.sampled_from((1, 1, 1, 2, 2, 3, 0, 70)))
    items = [draw(value)] * count if count > 3 else [draw(value) for _ in range(count)]
    if field.message_type and field.message_type.GetOptions().map_entry:
        for item in items:
            into = getattr(message, field.name)
            if field.message_type.fields_by_name["value"].message_type:
                into[item.key].CopyFrom(item.value)
            else:
                into[item.key] = item.value
    else:
        getattr(message, field.name).extend(items)


@cache
def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type:
        return messages(field.message_type, depth + 1)
    if field.enum_type:
        known = st.sampled_from([value.number for value in field.enum_type.values])
        return known | known | st.sampled_from((-1, 99, *INT32))
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return pictures() | st.binary(max_size=64)
        case FieldDescriptor.CPPTYPE_STRING if _bounds(field).layer:
            return st.sampled_from(LAYERS * 8 + TEXTS)
        case FieldDescriptor.CPPTYPE_STRING:
            known = KNOWN.get(field.full_name) or KNOWN.get(field.name)
            anything = st.sampled_from(TEXTS) | st.text(max_size=8)
            return st.just(known) | st.just(known) | anything if known else anything
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return st.sampled_from((*_edges(field), *FLOATS)) | st.floats(0, 1, width=32)
    low, high = RANGES[field.cpp_type]
    edges = {int(edge) for edge in _edges(field)} | {low, high, -1, 4000}
    return st.integers(0, 5) | st.sampled_from(sorted(edge for edge in edges if low <= edge <= high))


def _edges(field: FieldDescriptor) -> list[float]:
    """The numbers on both sides of what a field accepts, and its default."""
    if field.is_repeated:
        return []
    bounds = _bounds(field)
    near = [bounds.min, bounds.min - 1, bounds.max, bounds.max + 1]
    return [*near, bounds.default] if bounds.HasField("max") else near[:2]


def _encoded(image: PILImage.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _files() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 4), np.uint8)
    colour, clear = PILImage.fromarray(pixels[..., :3]), PILImage.fromarray(pixels)
    exif = PILImage.Exif()
    exif[0x0112] = 6
    deep = PILImage.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    modes = [colour.convert(mode) for mode in ("L", "1", "P")]
    return [
        *(_encoded(image, "PNG") for image in (colour, clear, clear.convert("LA"), deep, *modes)),
        _encoded(colour.convert("P"), "PNG", transparency=3, bits=4),
        _encoded(colour, "PNG", save_all=True, append_images=[colour.rotate(90)]),
        _encoded(colour, "PNG", exif=exif),
        *(_encoded(colour, "JPEG", progressive=progressive) for progressive in (False, True)),
        *(_encoded(image, "JPEG") for image in (colour.convert("CMYK"), colour.convert("L"))),
        _encoded(colour, "JPEG", exif=exif, icc_profile=b"x" * 200, comment=b"y" * 50),
        *(_encoded(image, "WEBP", lossless=lossless) for image in (colour, clear) for lossless in (0, 1)),
        _encoded(colour, "WEBP", save_all=True, append_images=[colour.rotate(90)]),
        _encoded(clear, "WEBP", exif=exif),
        *(_encoded(colour, kind) for kind in ("GIF", "BMP", "TIFF", "PPM")),
    ]


FILES: Final = _files()


def pictures() -> st.SearchStrategy[bytes]:
    """Files of many kinds, as they are or damaged."""
    damage = st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), min_size=1, max_size=6)
    whole = st.sampled_from(FILES)
    return (
        st.sampled_from(FILES[:12])
        | whole
        | st.builds(_damaged, whole, damage, st.integers(0, 400))
        | st.binary(max_size=40)
    )


def _damaged(file: bytes, damage: list[tuple[int, int]], cut: int) -> bytes:
    damaged = bytearray(file)
    for position, byte in damage:
        damaged[position % len(damaged)] = byte
    return bytes(damaged[: len(damaged) - cut] if cut < 100 else damaged)


@st.composite
def _tensors(draw: st.DrawFn) -> tensor_pb2.Tensor:
    if draw(st.booleans()):
        return wire.to_tensor(np.full((3, draw(st.sampled_from((16, 16, 32))), 16), 0.5, np.float32))
    shape = draw(
        st.sampled_from(((3, 16, 16), (16, 16, 3), (40,), (53,), (3, 96, 96)))
        | st.lists(st.sampled_from((0, 1, 3, 16, -1, 1 << 40, INT64[1])), max_size=40)
    )
    datatype = draw(st.sampled_from(("FP32", "FP32", "UINT8", *wire.DTYPES, "FP8", "")))
    count = int(np.prod(np.array(shape, object))) if shape else 1
    size = count * wire.DTYPES[datatype].itemsize if datatype in wire.DTYPES else 4
    fill = draw(st.sampled_from((b"\0\0\0\x3f", b"\0\0\xc0\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0")))
    data = (fill * (size // 4 + 1))[:size] if 0 <= size < 1 << 20 else b"abcd"
    return tensor_pb2.Tensor(datatype=datatype, shape=shape, data=data)


@st.composite
def _images(draw: st.DrawFn) -> image_pb2.Image:
    image = image_pb2.Image()
    if draw(st.integers(0, 3)):
        image.encoded = draw(pictures())
    else:
        image.tensor.CopyFrom(draw(_tensors()))
    if not draw(st.integers(0, 3)):
        image.resize.CopyFrom(draw(messages(image_pb2.Resize.DESCRIPTOR)))
    return image


@st.composite
def _models(draw: st.DrawFn) -> model_pb2.ModelRef:
    ref = model_pb2.ModelRef(name=draw(st.sampled_from(("tiny", "patterns", *MODELS))))
    if not draw(st.integers(0, 3)):
        ref.version = draw(st.sampled_from((1, 1, 0, -1, 2, *INT32)))
    return ref


@st.composite
def _stylings(draw: st.DrawFn) -> style_pb2.StyliseRequest:
    request = draw(_message(style_pb2.StyliseRequest.DESCRIPTOR, 0))
    if draw(st.integers(0, 3)):
        request.model.name = "painter"
        request.model.ClearField("version")
    return request


@st.composite
def _inferences(draw: st.DrawFn) -> oip.ModelInferRequest:
    """Of the Open Inference Protocol: a sound request, and then any other laid over some of it."""
    name = draw(st.sampled_from(("tiny", "tiny.gradient", "patterns")))
    count, classes = draw(st.integers(1, 2)), 53 if name == "patterns" else 5
    arrays = {"image": np.full((count, 3, 16, 16), 0.5, np.float32)}
    if name.endswith(".gradient"):
        arrays["cotangent"] = np.ones((count, classes), np.float32)
    request = oip.ModelInferRequest(
        model_name=name,
        inputs=[{"name": key, "datatype": "FP32", "shape": array.shape} for key, array in arrays.items()],
        raw_input_contents=[array.tobytes() for array in arrays.values()],
    )
    if draw(st.booleans()):
        request.outputs.add(name=draw(st.sampled_from((*LAYERS, "probabilities", "value", *TEXTS))))
    if draw(st.booleans()):
        for key in ("layer", "rule"):
            request.parameters[key].string_param = draw(st.sampled_from((*LAYERS, "guided", "gradient")))
    if draw(st.booleans()):
        other = draw(_message(request.DESCRIPTOR, 0))
        for field, _ in other.ListFields():
            if draw(st.booleans()):
                request.ClearField(field.name)
        request.MergeFrom(other)
    return request


SPECIAL: Final[dict[str, Callable[[], st.SearchStrategy[Any]]]] = {
    "convlens.v1.Image": _images,
    "convlens.v1.Tensor": _tensors,
    "convlens.v1.ModelRef": _models,
    "convlens.v1.StyliseRequest": _stylings,
    "inference.ModelInferRequest": _inferences,
}
