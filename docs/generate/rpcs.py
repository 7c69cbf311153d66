"""The pages of the RPCs, one a .proto file, from the descriptors, their comments and their bounds."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from docs.generate.markdown import anchor, code, first_sentence, number, prose, table, titled, wide_table
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from grpc_tools import protoc

from convlens.v1 import bounds_pb2

PROTOS: Final = Path(__file__).resolve().parents[2] / "protos"
PACKAGE: Final = "convlens.v1"
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, ENUM_VALUE, SERVICE_METHOD = 2, 3, 4, 2, 2
"""Numbers of the fields of descriptors, of which the paths of comments consist."""
UNITS: Final = {
    FieldDescriptorProto.TYPE_STRING: " characters",
    FieldDescriptorProto.TYPE_BYTES: " bytes",
}
ERROR: Final = re.compile(r"([A-Z_]{5,})(?: \(((?:[^()]|\([^()]*\))*)\))?")
INDEX: Final = """\
The contract is `protos/convlens/v1/*.proto`, and these pages are made from it. The server checks every
request against the bounds that they show, fills in the defaults, and names in its error the field, its value
and what is allowed. [What every call shares](../calls.md) tells how images, tensors and errors travel. Jobs
are also served by the standard `google.longrunning.Operations`, and models by the
[Open Inference Protocol](../open-inference.md).
"""


class File(NamedTuple):
    """A .proto file: its descriptor, and its comments by path."""

    proto: descriptor_pb2.FileDescriptorProto
    comments: dict[tuple[int, ...], str]

    @property
    def page(self) -> str:
        """The name of its page."""
        return f"{Path(self.proto.name).stem}.md"


class Place(NamedTuple):
    """A message or enum: its name within the package, its descriptor, and the path of its comment."""

    name: str
    descriptor: Any
    path: tuple[int, ...]


class Type(NamedTuple):
    """Where a message or enum is explained, and its comment."""

    link: str
    comment: str


Known = Mapping[str, Type]


def pages() -> dict[str, str]:
    """The text of the page of each file, and of their index, by path below `docs/`."""
    files = _files()
    known = {
        f".{PACKAGE}.{place.name}": Type(
            f"{file.page}#{anchor(place.name)}", file.comments.get(place.path, "")
        )
        for file in files
        for place in _types(file)
    }
    texts = {f"reference/rpcs/{file.page}": _page(file, known) for file in files}
    return {"reference/rpcs/index.md": _index(files), **texts}


def _files() -> list[File]:
    import googleapis  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        googleapis.main(Path(folder) / "googleapis")
        sources = sorted(str(path) for path in (PROTOS / "convlens/v1").glob("*.proto"))
        out = Path(folder) / "set"
        standard = Path(protoc.__file__).parent / "_proto"
        options = [f"-I{PROTOS}", f"-I{folder}/googleapis", f"-I{standard}", "--include_source_info"]
        if protoc.main(["protoc", *options, f"--descriptor_set_out={out}", *sources]):
            raise RuntimeError("protoc refused the protos")
        described = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    return [
        File(
            file,
            {
                tuple(at.path): at.leading_comments.strip()
                for at in file.source_code_info.location
                if at.leading_comments
            },
        )
        for file in sorted(described.file, key=lambda file: file.name)
    ]


def _types(file: File) -> Iterator[Place]:
    """The messages, nested ones included, and then the enums of a file."""

    def nested(message: Any, name: str, path: tuple[int, ...]) -> Iterator[Place]:
        yield Place(name, message, path)
        for number_, inner in enumerate(message.nested_type):
            if not inner.options.map_entry:
                yield from nested(inner, f"{name}.{inner.name}", (*path, MESSAGE_NESTED, number_))

    for number_, message in enumerate(file.proto.message_type):
        yield from nested(message, message.name, (FILE_MESSAGE, number_))
    for number_, enum in enumerate(file.proto.enum_type):
        yield Place(enum.name, enum, (FILE_ENUM, number_))


def _index(files: list[File]) -> str:
    text = titled("RPCs", "the protos") + f"\n{INDEX}\n"
    for file in files:
        for number_, service in enumerate(file.proto.service):
            comment = file.comments.get((FILE_SERVICE, number_), "")
            rows = [
                (
                    f"[{method.name}]({file.page}#{anchor(method.name)})",
                    prose(first_sentence(_described(file, number_, at)[0])),
                )
                for at, method in enumerate(service.method)
            ]
            text += f"## {service.name}\n\n{prose(comment)}\n\n{table(('method', 'what it does'), rows)}\n"
    shared = [f"- [{Path(file.proto.name).name}]({file.page})" for file in files if not file.proto.service]
    return text + "## Messages that services share\n\n" + "\n".join(shared) + "\n"


def _page(file: File, known: Known) -> str:
    services = file.proto.service
    title = services[0].name if services else Path(file.proto.name).name
    text = (
        titled(title, f"protos/{file.proto.name}")
        + f"\nFrom {code(file.proto.name)}, package {code(PACKAGE)}.\n"
    )
    for number_, service in enumerate(services):
        text += f"\n{prose(file.comments.get((FILE_SERVICE, number_), ''))}\n"
        text += "".join(_method(file, number_, at, known) for at in range(len(service.method)))
    if services:
        text += "\n## Messages\n"
    text += "".join(_type(file, place, known) for place in _types(file))
    return text.replace(f"]({file.page}#", "](#")


def _described(file: File, service: int, method: int) -> tuple[str, str]:
    """What a method does, and its errors."""
    comment = file.comments.get((FILE_SERVICE, service, SERVICE_METHOD, method), "")
    text, _, errors = comment.partition("Errors:")
    return text, " ".join(errors.split())


def _method(file: File, service: int, at: int, known: Known) -> str:
    method = file.proto.service[service].method[at]
    text, errors = _described(file, service, at)
    sent, got = (
        ("a stream of " if streamed else "") + _linked(kind, known)
        for streamed, kind in (
            (method.client_streaming, method.input_type),
            (method.server_streaming, method.output_type),
        )
    )
    listed = table(("error", "when"), [(code(name), prose(when)) for name, when in ERROR.findall(errors)])
    return f"\n## {method.name}\n\n{prose(text)}\n\nRequest: {sent}. Reply: {got}.\n\n{listed}"


def _type(file: File, place: Place, known: Known) -> str:
    text = f"\n### {place.name}\n"
    if comment := file.comments.get(place.path):
        text += f"\n{prose(comment)}\n"
    if isinstance(place.descriptor, descriptor_pb2.EnumDescriptorProto):
        rows = [
            (code(value.name), str(value.number), prose(file.comments.get((*place.path, ENUM_VALUE, at), "")))
            for at, value in enumerate(place.descriptor.value)
        ]
        return f"{text}\n{table(('value', 'number', 'meaning'), rows)}"
    for at, oneof in enumerate(place.descriptor.oneof_decl):
        arms = [field.name for field in place.descriptor.field if _arm(field, at)]
        if arms:
            required = oneof.options.Extensions[bounds_pb2.one_required]
            many = "Exactly one" if required else "At most one"
            text += f"\n{many} of these is set, as {code(oneof.name)}: {', '.join(map(code, arms))}.\n"
    fields = [
        (
            code(field.name),
            _kind(field, place, known),
            accepted(field),
            _meaning(field, file.comments.get((*place.path, MESSAGE_FIELD, at), ""), known),
        )
        for at, field in enumerate(place.descriptor.field)
    ]
    listed = wide_table(("field", "type", "accepted", "meaning"), fields) or "It has no fields.\n"
    return f"{text}\n{listed}"


def _meaning(field: FieldDescriptorProto, comment: str, known: Known) -> str:
    """The field's comment, or the first sentence about its type where it has none."""
    if comment or field.type_name not in known:
        return prose(comment)
    return prose(first_sentence(known[field.type_name].comment))


def _arm(field: FieldDescriptorProto, oneof: int) -> bool:
    return field.HasField("oneof_index") and field.oneof_index == oneof and not field.proto3_optional


def _kind(field: FieldDescriptorProto, place: Place, known: Known) -> str:
    for inner in place.descriptor.nested_type:
        if inner.options.map_entry and field.type_name.endswith(f".{place.name}.{inner.name}"):
            key, value = inner.field
            return f"map of {_scalar(key)} to {_scalar(value)}"
    shown = _linked(field.type_name, known) if field.type_name else _scalar(field)
    return f"repeated {shown}" if field.label == FieldDescriptorProto.LABEL_REPEATED else shown


def _scalar(field: FieldDescriptorProto) -> str:
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _linked(name: str, known: Known) -> str:
    shown = name.removeprefix(f".{PACKAGE}.").removeprefix(".")
    return f"[{shown}]({known[name].link})" if name in known else code(shown)


def accepted(field: FieldDescriptorProto) -> str:
    """What a field accepts, and what it is taken for when it is absent, as the server's check has it."""
    bounds = field.options.Extensions[bounds_pb2.bounds]
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    unit = " items" if repeated else UNITS.get(field.type, "")
    above = "above" if bounds.exclusive_min else "at least"
    low = f"{above} {number(bounds.min)}" if bounds.HasField("min") else ""
    high = f"at most {number(bounds.max)}" if bounds.HasField("max") else ""
    facts = ["required"] if bounds.required else []
    if low and high and not bounds.exclusive_min:
        facts.append(f"{number(bounds.min)} to {number(bounds.max)}{unit}")
    elif low or high:
        facts.append(" and ".join(filter(None, (low, high))) + unit)
    facts += ["a layer of the model"] if bounds.layer else []
    facts += ["a class of the model"] if bounds.class_index else []
    facts += [f"default {number(bounds.default)}"] if bounds.HasField("default") else []
    facts += [f"default {code(bounds.default_text)}"] if bounds.default_text else []
    facts += ["default: all its defaults"] if bounds.filled else []
    return ", ".join(facts)
