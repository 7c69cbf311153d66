"""Lines of the log: whole, one a record, and nobody else's."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from convlens.text import printable
from convlens_client import Client
from convlens_workers.telemetry.logs import (
    MOST_WAITING,
    JsonFormatter,
    TextFormatter,
    Traced,
    Unblocking,
    cut,
)

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|ERROR) convlens\.access .*")
EVIL = {
    "a new line": "x\n2026-01-01T00:00:00.000Z INFO convlens.access forged",
    "carriage return": "x\r2026-01-01T00:00:00.000Z INFO convlens.access forged",
    "colours": "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "line separators": "x\u2028forged\u2029forged\x85forged\x0bforged\x0cforged",
    "directions": "\u202egnp.exe\u2066",
    "no characters": "\x00\x08\x7f\x9b31m\ud800",
    "braces": '"}\n{"level": "info", "message": "forged"',
    "huge": "a" * 10_000_000,
}


def record(message: str, error: BaseException | None = None, **extra: Any) -> logging.LogRecord:
    found = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("convlens.access", logging.INFO, "", 0, "%s", (message,), found)
    made.__dict__.update(extra)
    return made


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL.keys())
def test_json_stays_one_short_object_of_ascii(text: str) -> None:
    line = JsonFormatter().format(record(text, ValueError(text), principal=text, why=text))
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 40_000
    found = json.loads(line)
    assert (found["level"], found["logger"]) == ("info", "convlens.access")
    assert found["principal"] == found["why"] == found["message"] == cut(text)


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL.keys())
def test_text_stays_one_short_line_and_a_traceback_stays_behind_its_bar(text: str) -> None:
    whole = TextFormatter().format(record(text, ValueError(text), principal=text))
    first, *others = re.split("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", whole)
    assert LINE.fullmatch(first)
    assert all(line.startswith("    | ") for line in others)
    assert all(line.isprintable() for line in (first, *others))
    assert len(whole) < 60_000
    assert "principal=" in first


def test_a_field_cannot_be_forged_from_within_another() -> None:
    line = TextFormatter().format(record("x", tenant='a" principal=root', principal="me"))
    assert line.endswith('x tenant="a\\" principal=root" principal=me')


def test_json_has_the_fields_of_a_call_and_numbers_as_numbers() -> None:
    fields = {"request": "r", "trace": "t", "code": "OK", "seconds": 0.25, "phases": {"queue": 0.1}}
    found = json.loads(JsonFormatter().format(record("said", **fields, unknown=1)))
    assert fields.items() <= found.items()
    assert "unknown" not in found


def test_text_does_not_say_things_twice() -> None:
    line = TextFormatter().format(record("/m OK 1.0 ms", method="/m", code="OK", seconds=0.001, request="r"))
    assert line.endswith("/m OK 1.0 ms request=r")


def test_the_trace_is_added() -> None:
    from opentelemetry import context, trace

    from convlens_workers.telemetry.tracing import following

    one = record("x")
    token = context.attach(following(f"00-{'ab' * 16}-{'cd' * 8}-01"))
    try:
        assert trace.get_current_span().get_span_context().is_valid
        assert Traced().filter(one)
    finally:
        context.detach(token)
    assert one.trace == "ab" * 16  # type: ignore[attr-defined]
    other = record("x")
    Traced().filter(other)
    assert not hasattr(other, "trace")


def test_what_is_cut_says_so() -> None:
    assert cut("a" * 30 + "b" * 30, 20) == "a" * 10 + " ... 40 characters ... " + "b" * 10
    assert cut("short") == "short"


def test_ordinary_letters_of_all_languages_are_printable() -> None:
    assert printable("Überschrift 図 ñ") == "Überschrift 図 ñ"
    assert printable("a\tb\n") == "a\\tb\\n"


def test_a_traceback_keeps_its_end() -> None:
    try:
        raise ValueError("x" * 100_000 + "the end")
    except ValueError:
        made = logging.LogRecord("a", logging.ERROR, "", 0, "m", (), sys.exc_info())
    assert json.loads(JsonFormatter().format(made))["exception"].endswith("the end")


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_lines_that_nobody_takes_hold_nobody_up_and_are_counted(kind: str) -> None:
    ends = [os.fdopen(end, mode) for end, mode in zip(os.pipe(), ("rb", "w"), strict=True)]
    if kind == "socket":
        for end in ends:
            end.close()
        pair = socket.socketpair()
        ends = [end.makefile(mode) for end, mode in zip(pair, ("rb", "w"), strict=True)]
        for end in pair:
            end.close()
    reader, writer = ends
    handler = Unblocking(writer)
    handler.setFormatter(logging.Formatter("%(message)s"))
    count = 4 * MOST_WAITING // 1000
    for number in range(count):
        handler.emit(record(f"{number} " + "x" * 990))
    handler.flush()
    threading.Timer(0.5, handler.emit, [record("the last")]).start()
    found, known = [], 0
    while not found or found[-1] != b"the last\n":
        found.append(reader.readline())
        handler.flush()
    known = sum(line.endswith(b"x\n") for line in found)
    assert [int(line.split()[0]) for line in found[:known]] == list(range(known))
    assert found[known:-1] == [f"{count - known} lines were lost: nobody took them\n".encode()]
    handler.close()
    writer.close()
    reader.close()


def test_a_server_whose_log_nobody_reads_goes_on_serving() -> None:
    """Each call writes a line of some 300 bytes; a pipe has room for 65,536."""
    variables = {"CONVLENS_LISTEN": "127.0.0.1:0", "CONVLENS_REDIS": "", "CONVLENS_WARM": "[]"}
    process = subprocess.Popen(
        [sys.executable, "-m", "convlens_server"],
        env=os.environ | variables | {"CONVLENS_LOG_LEVEL": "INFO"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[3]
            with Client(address, timeout=10) as client:
                for _ in range(400):
                    client.list_models()
        finally:
            process.kill()
