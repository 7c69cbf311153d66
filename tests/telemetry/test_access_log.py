"""The log of a server process, and the id that a call has in it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from convlens.v1 import model_pb2, model_pb2_grpc

TRACE = "0af7651916cd43dd8448eb211c80319c"


@contextmanager
def server(folder: Path, lines: list[str], **settings: str) -> Iterator[model_pb2_grpc.ModelServiceStub]:
    """A server; `lines` is its log in the end."""
    given = {"listen": "127.0.0.1:0", "redis": "", "models": str(folder), "warm": "[]", **settings}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONVLENS_", "OTEL_"))}
    variables = kept | {f"CONVLENS_{name.upper()}": value for name, value in given.items()}
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "convlens_server"]
    with subprocess.Popen(command, env=variables, stdout=pipe, stderr=pipe, text=True) as running:
        try:
            assert running.stdout is not None
            ready = re.match(r"convlens-server ready on (\S+)", running.stdout.readline())
            assert ready is not None, running.communicate()[1]
            with grpc.insecure_channel(ready[1]) as channel:
                yield model_pb2_grpc.ModelServiceStub(channel)
            running.send_signal(signal.SIGTERM)
            lines += running.communicate(timeout=20)[1].splitlines()
            assert running.returncode == 0
        finally:
            running.kill()


def ask(stub: model_pb2_grpc.ModelServiceStub, *metadata: tuple[str, str], name: str = "") -> str:
    """The id that a call is given."""
    try:
        _, call = stub.GetModel.with_call(model_pb2.GetModelRequest(model={"name": name}), metadata=metadata)
    except grpc.RpcError as error:
        call = error
    ids = [value for key, value in call.trailing_metadata() if key == "x-request-id"]
    assert len(ids) == 1
    return ids[0]


BAD = ["", "a" * 65, "a b", 'x", "level": "error', "x;y", "../../x", "\\x1b[31m", "{}"]


def test_json(tmp_path: Path) -> None:
    lines: list[str] = []
    with server(tmp_path, lines) as stub:
        assert ask(stub, ("x-request-id", "order-66.b_2")) == "order-66.b_2"
        assert ask(stub, ("x-request-id", "absent"), name="no\nsuch\x1b[31m") == "absent"
        made = [ask(stub, ("x-request-id", bad)) for bad in BAD]
        made.append(ask(stub, ("x-request-id", "one"), ("x-request-id", "two")))
        traced = ask(stub, ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"))
        forged = ask(stub, ("traceparent", '00-zz"}-b7ad6b7169203331-01\\n'))
    assert all(re.fullmatch(r"[0-9a-f]{32}", id_) for id_ in made)
    found = [json.loads(line) for line in lines]
    access = {line["request"]: line for line in found if line["logger"] == "convlens.access"}
    assert len(access) == 2 + len(made) + 2
    good = access["order-66.b_2"]
    assert (good["method"], good["code"]) == ("/convlens.v1.ModelService/GetModel", "OK")
    assert 0 < good["phases"]["queue"] < good["seconds"] < 10
    assert (good["tenant"], good["principal"]) == ("", "anybody")
    assert access["absent"]["code"] != "OK"
    assert access[traced]["trace"] == TRACE
    assert "trace" not in access[forged]


def test_text(tmp_path: Path) -> None:
    lines: list[str] = []
    with server(tmp_path, lines, log_format="text") as stub:
        ask(stub, ("x-request-id", "mine"), ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"))
    stamp = r"[\d-]+T[\d:.]+Z"
    said = r"INFO convlens.access /convlens.v1.ModelService/GetModel OK [\d.]+ ms"
    fields = f"request=mine trace={TRACE} principal=anybody"
    assert sum(bool(re.fullmatch(f"{stamp} {said} {fields}", line)) for line in lines) == 1
