"""Writes the comments of all fields to convlens/v1/comments.json: `python protos/comments.py GOOGLEAPIS`.

The generated Python code has no comments; the client's help texts are made of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

PROTOS = Path(__file__).parent
TARGET = PROTOS / "convlens" / "v1" / "comments.json"
MESSAGE, FIELD = 4, 2
"""Field numbers of FileDescriptorProto.message_type and of DescriptorProto.field."""


def main(googleapis: Path, target: Path = TARGET) -> None:
    """Write the comment of each field by the name of its message and its own: {"Rise.masks": "..."}."""
    with TemporaryDirectory() as folder:
        described = Path(folder) / "described"
        sources = [str(path) for path in sorted((PROTOS / "convlens" / "v1").glob("*.proto"))]
        includes = [f"-I{folder}" for folder in (PROTOS, googleapis, Path(protoc.__file__).parent / "_proto")]
        options = ["--include_source_info", f"--descriptor_set_out={described}"]
        if protoc.main(["protoc", *includes, *options, *sources]):
            raise SystemExit("protoc failed")
        files = FileDescriptorSet.FromString(described.read_bytes()).file
    comments = {name: text for file in files for name, text in _comments(file).items()}
    target.write_text(json.dumps(comments, indent=0, ensure_ascii=False) + "\n", "utf-8")


def _comments(file: FileDescriptorProto) -> dict[str, str]:
    comments = {}
    for location in file.source_code_info.location:
        match list(location.path):
            case [kind, message, part, field] if (kind, part) == (MESSAGE, FIELD):
                owner = file.message_type[message]
                text = " ".join(location.leading_comments.split())
                if text:
                    comments[f"{owner.name}.{owner.field[field].name}"] = text
    return comments


if __name__ == "__main__":
    main(Path(sys.argv[1]))
