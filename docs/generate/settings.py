"""The page of all settings, from the settings classes and a table of what is read elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin

from docs.generate.cli import by_variable
from docs.generate.markdown import code, number, prose, titled
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from convlens_server.cpus import cpus
from convlens_server.edge.settings import EdgeSettings
from convlens_server.identity.settings import IdentitySettings
from convlens_server.settings import ServerSettings
from convlens_workers.jobs.settings import JobSettings
from convlens_workers.settings import WorkerSettings

INTRODUCTION: Final = """\
Every setting is an environment variable, read once when the process starts. A value that is not allowed
ends the process with a message that names it. Lists and objects are written as JSON, such as
`CONVLENS_WARM=["patterns"]`. On this page `lanes` without a prefix means `CONVLENS_LANES`, and so on.
"""
TOGETHER: Final = """## Servers and workers

Servers and workers that belong together have the same values of the settings of jobs and collections.
`CONVLENS_QUEUE` differs where a worker serves the queue of a priority, and `CONVLENS_METRICS_LISTEN` names a
port for each process. The last four settings mean something else for a server than for a worker.
"""
SERVERS: Final = "## Servers\n\nWhat a server serves, and how much of the machine it takes.\n"
EDGE: Final = """## What clients may hold of a server

Bounds for connections, requests and replies, each process its own;
[Serving](../design/serving.md#what-clients-may-hold) adds them up.
"""
IDENTITY: Final = """## Who may call a server

Credentials, tenants and their quotas; [Who may call](../guides/credentials.md) explains them together.
"""
WORKERS: Final = "## Workers\n\nHow a worker computes, and how long it waits.\n"
CLIENTS: Final = """## Clients

The Python client and the command `convlens` read these where an argument or option does not say otherwise.
"""
OTHERS: Final = "## Other variables\n\nVariables of libraries, and the folder of secrets.\n"

OF_CLIENTS: Final = {
    "CONVLENS_SERVER": "Address of the server: HOST:PORT, or dns:///NAME:PORT for a name whose addresses are"
    " taken in turn. Not set, it is 127.0.0.1:8500.",
    "CONVLENS_TLS": "`1` encrypts calls and trusts the system's certificate authorities; a path names a PEM"
    " file of the authorities to trust instead. Not set, or `0`, calls are in plain text.",
    "CONVLENS_TOKEN": "API key or JSON Web Token that goes with every call.",
    "CONVLENS_PATIENCE": "Seconds that the server may be away or full before a call fails. Not set, 3"
    " (60 for calls that go on where they broke), and for a full one, which says when to come back, as many"
    " as are left of the call's timeout.",
    "CONVLENS_CLIENT_CERTIFICATE": "PEM file of the client's certificate, for servers that ask for one.",
    "CONVLENS_CLIENT_KEY": "PEM file of the private key of `CONVLENS_CLIENT_CERTIFICATE`.",
}
ELSEWHERE: Final = {
    "CONVLENS_SECRETS": "Folder of files that stand for variables of servers and workers: a setting whose"
    " variable is not set is read from the file `convlens_<name>` in it. S3's credentials may lie there too,"
    " as `aws_access_key_id` and `aws_secret_access_key`.",
    "AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ALLOW_HTTP": "Address and"
    " credentials of an artifact store at `s3://`; `AWS_ALLOW_HTTP=true` allows one without TLS.",
    "OTEL_*": "Where traces go, as the OpenTelemetry specification says;"
    " [Monitoring](../guides/monitoring.md) names the variables that count.",
    "OMP_NUM_THREADS": "Threads of PyTorch in a worker; not set, all cores of the machine.",
    "CUDA_VISIBLE_DEVICES": "The GPUs that a process sees.",
    "ORT_DISABLE_TELEMETRY": "`1` or not set, the telemetry of ONNX Runtime's own packages is off; `0` leaves"
    " it on.",
}
WORDS: Final = {str: "Text", int: "Integer", float: "Number", bool: "True or false", Path: "Path"}
JSON: Final = {tuple: "JSON array of texts", frozenset: "JSON array of texts", dict: "JSON object of texts"}
Readers = Mapping[str, type[BaseSettings]]
BOTH: Final[Readers] = {"servers": ServerSettings, "workers": WorkerSettings}


def page() -> str:
    """The text of the page."""
    server, worker = _own(ServerSettings), _own(WorkerSettings)
    differing = [name for name in server if name in worker]
    parts = [
        titled("Settings", "the settings classes"),
        INTRODUCTION,
        TOGETHER,
        *(_entry(name, {"servers and workers": JobSettings}) for name in _own(JobSettings)),
        *(_entry(name, BOTH) for name in differing),
        SERVERS,
        *(
            _entry(name, {"servers": ServerSettings})
            for name in _own(ServerSettings)
            if name not in differing
        ),
        EDGE,
        *(_entry(name, {"servers": EdgeSettings}) for name in _own(EdgeSettings)),
        IDENTITY,
        *(_entry(name, {"servers": IdentitySettings}) for name in _own(IdentitySettings)),
        WORKERS,
        *(
            _entry(name, {"workers": WorkerSettings})
            for name in _own(WorkerSettings)
            if name not in differing
        ),
        CLIENTS,
        *(f"{_heading(name)}\n{text}\n\n*Read by clients*\n" for name, text in OF_CLIENTS.items()),
        OTHERS,
        *(f"{_heading(*name.split(', '))}\n{text}\n" for name, text in ELSEWHERE.items()),
    ]
    return "\n".join(parts)


def _own(settings: type[BaseSettings]) -> list[str]:
    """The fields that a class adds to those of its bases, in the order of the source."""
    return [name for name in settings.__annotations__ if name in settings.model_fields]


def _entry(name: str, readers: Readers) -> str:
    texts = [_heading(f"CONVLENS_{name.upper()}")]
    for reader, settings in readers.items():
        field = settings.model_fields[name]
        texts += [f"**{reader.capitalize()}.** "] if len(readers) > 1 else [""]
        texts[-1] += prose(field.description or "") + "\n"
        texts += [_facts(name, reader, field)]
    return "\n".join(texts)


def _heading(*names: str) -> str:
    return f"### {', '.join(map(code, names))}\n"


def _facts(name: str, reader: str, field: FieldInfo) -> str:
    """Type, range, default and reader of a setting."""
    facts = [_kind(field), _default(field), f"read by {reader}"]
    if reader != "workers":
        options = by_variable().get(f"CONVLENS_{name.upper()}", ())
        facts += [f"also {code(f'{command} {option}')}" for command, option in options]
    return f"*{' · '.join(facts)}*\n"


def _kind(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    if NoneType in get_args(annotation):
        annotation = next(arm for arm in get_args(annotation) if arm is not NoneType)
    if get_origin(annotation) is Literal:
        return "One of " + ", ".join(map(code, get_args(annotation)))
    word = JSON.get(get_origin(annotation)) or WORDS[annotation]
    return word + "".join(_limits(field.metadata))


def _limits(metadata: Iterable[Any]) -> Iterator[str]:
    for limit in metadata:
        for name, words in (("ge", "at least"), ("gt", "above"), ("le", "at most")):
            if hasattr(limit, name):
                yield f", {words} {number(getattr(limit, name))}"
        if pattern := getattr(limit, "pattern", None):
            yield f" that matches {code(pattern)}"


def _default(field: FieldInfo) -> str:
    if field.default_factory is cpus:
        return "default: the CPUs of the container"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value == "":
        return "not set by default"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"default {code(number(value))}"
    if isinstance(value, tuple | frozenset):
        value = sorted(value) if isinstance(value, frozenset) else list(value)
    return f"default {code(value if isinstance(value, str) else json.dumps(value))}"
