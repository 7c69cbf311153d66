"""Settings that are not allowed: the message names the variable, and never tells a secret."""

from __future__ import annotations

import pytest

from convlens.errors import InvalidArgument
from convlens_server.settings import ServerSettings
from convlens_workers.jobs.settings import read
from convlens_workers.settings import WorkerSettings

WRONG = {
    "GRACE": ("-1", "CONVLENS_GRACE = '-1': input should be greater than or equal to 0"),
    "LISTEN": ("8500", "CONVLENS_LISTEN = '8500': must be HOST:PORT"),
    "WARM": ("patterns", "CONVLENS_WARM: must be JSON"),
    "JWT_ALGORITHMS": ('["HS256"]', "CONVLENS_JWT_ALGORITHMS = ['HS256']: must be some of"),
    "TLS_KEY": (__file__, "CONVLENS_TLS_CERTIFICATE and CONVLENS_TLS_KEY go together"),
    "REDIS": ("http://:hunter2@redis", "CONVLENS_REDIS: must begin with redis://"),
    "REDIS ": ("redis://:hunter2@redis:port", "CONVLENS_REDIS: must name its port by a number"),
    "CACHE_REDIS": (":hunter2@redis", "CONVLENS_CACHE_REDIS: must begin with redis://"),
    "VICTIMS": ('{"theirs": ["hunter2"]}', "CONVLENS_VICTIMS: input should be a valid string"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_one_line_that_names_its_variable(monkeypatch, name):
    value, message = WRONG[name]
    monkeypatch.setenv(f"CONVLENS_{name.strip()}", value)
    with pytest.raises(InvalidArgument) as caught:
        read(ServerSettings)
    said = str(caught.value)
    assert message in said
    assert not [part for part in ("\n", "hunter2", "https://", "pydantic") if part in said]


def test_all_that_is_wrong_is_said_at_once(monkeypatch):
    monkeypatch.setenv("CONVLENS_LEASE", "0.1")
    monkeypatch.setenv("CONVLENS_DEVICE", "tpu")
    with pytest.raises(InvalidArgument, match=r"CONVLENS_DEVICE = 'tpu'.*; CONVLENS_LEASE = '0.1'"):
        read(WorkerSettings)


def test_settings_do_not_show_their_secrets(monkeypatch):
    monkeypatch.setenv("CONVLENS_REDIS", "redis://:hunter2@redis")
    assert "hunter2" not in repr(read(ServerSettings))
