"""The Compose files: their schema, what they keep to, and what stands beside them."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry
from support.dockerfile import read
from support.image_policies import COMPOSE
from support.redis_server import free_port, redis_binary

from convlens_server.identity.keys import ApiKeys

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/compose"
FILE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
DOCKERFILE = read(ROOT / "deploy/containers/Dockerfile")


def meets_the_schema(*files: Path) -> bool:
    """By the schema of the Compose Specification that check-jsonschema brings along."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *files]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.slow  # `make check` looks at the files each time.
def test_the_files_meet_the_schema(tmp_path):
    assert meets_the_schema(FOLDER / "compose.yaml", FOLDER / "compose.gpu.yaml")
    broken = FILE | {"services": FILE["services"] | {"x": {"imagee": "a"}}}
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(broken))
    assert not meets_the_schema(tmp_path / "compose.yaml")


@pytest.mark.parametrize("policy", COMPOSE, ids=lambda policy: policy.__name__)
def test_it_keeps_each_policy(policy):
    assert list(policy(FILE)) == []


def of(service: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["services"][service].update(fields)


def without(service: str, field: str) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["services"][service].pop(field)


PLANTED = [
    ("services_have_pinned_images", of("redis", image="redis:latest")),
    ("services_have_pinned_images", of("grafana", image="grafana/grafana:12.3.0")),
    ("services_have_pinned_images", of("server", image="convlens-server")),
    ("services_show_no_secret", of("grafana", environment={"GF_SECURITY_ADMIN_PASSWORD": "admin"})),
    ("services_show_no_secret", of("worker", environment={"CONVLENS_REDIS": "redis://a:b@redis"})),
    ("services_show_no_secret", of("redis", command=["redis-server", "--requirepass", "x"])),
    ("services_show_no_secret", lambda found: found["secrets"].update(x={"environment": "X"})),
    ("services_are_looked_after", without("worker", "healthcheck")),
    ("services_are_looked_after", without("redis", "restart")),
    ("services_are_looked_after", without("server", "deploy")),
    ("services_are_looked_after", without("grafana", "logging")),
    ("services_are_confined", of("prometheus", read_only=False)),
    ("services_are_confined", of("worker", cap_add=["SYS_ADMIN"])),
    ("services_are_confined", without("redis", "security_opt")),
    ("services_are_confined", of("server", user="root")),
    ("ports_are_published_to_this_host_alone", of("server", ports=["8500:8500"])),
    ("ports_are_published_to_this_host_alone", of("redis", networks=["front"])),
    ("ports_are_published_to_this_host_alone", lambda found: found["networks"]["jobs"].clear()),
]


@pytest.mark.parametrize(("name", "plant"), PLANTED)
def test_each_policy_sees_a_planted_violation(name, plant):
    found = copy.deepcopy(FILE)
    plant(found)
    assert list({policy.__name__: policy for policy in COMPOSE}[name](found))


def test_every_policy_has_a_planted_violation():
    assert {name for name, _ in PLANTED} == {policy.__name__ for policy in COMPOSE}


def test_it_is_told_what_the_images_say():
    for name in ("server", "worker"):
        service = FILE["services"][name]
        target = service["build"]["target"]
        assert service["image"].startswith(f"convlens-{target}:")
        assert service["user"] == DOCKERFILE.last(target, "USER").text
        assert service["healthcheck"]["test"][1:] == DOCKERFILE.last(target, "HEALTHCHECK").command()
    gpu = yaml.safe_load((FOLDER / "compose.gpu.yaml").read_text())
    assert all(each["build"]["target"] in DOCKERFILE.stages for each in gpu["services"].values())


def test_redis_is_the_same_in_both_kits():
    base = yaml.safe_load((ROOT / "deploy/kubernetes/base/kustomization.yaml").read_text())
    (redis,) = (image for image in base["images"] if image["name"] == "redis")
    assert FILE["services"]["redis"]["image"] == f"redis:{redis['newTag']}@{redis['digest']}"
    assert redis["newName"] == "docker.io/library/redis"


def test_what_is_mounted_is_there():
    for service in FILE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (FOLDER / source).is_file() if source.startswith(".") else source in FILE["volumes"]


def test_prometheus_asks_those_that_there_are():
    jobs = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    asked = {(name, each["port"]) for job in jobs for each in job["dns_sd_configs"] for name in each["names"]}
    assert asked == {("server", 8502), ("worker", 8502)}
    listen = DOCKERFILE.environment("server")["CONVLENS_METRICS_LISTEN"]
    assert listen == DOCKERFILE.environment("worker-cpu")["CONVLENS_METRICS_LISTEN"] == "0.0.0.0:8502"
    assert all("watch" in FILE["services"][name]["networks"] for name, _ in asked)


@pytest.fixture
def secrets(tmp_path: Path) -> tuple[Path, str]:
    """The folder that secrets.sh makes, and the API key that it prints."""
    folder = tmp_path / "secrets"
    made = subprocess.run([FOLDER / "secrets.sh", folder], check=True, capture_output=True, text=True)
    return folder, made.stdout.strip()


def test_secrets_are_those_that_are_mounted_and_made_once(secrets):
    folder, _ = secrets
    named = {f"./secrets/{path.name}" for path in folder.iterdir()}
    assert named == {secret["file"] for secret in FILE["secrets"].values()}
    assert folder.stat().st_mode & 0o077 == 0, "nobody else of this host may look"
    again = subprocess.run([FOLDER / "secrets.sh", folder], check=False, capture_output=True, text=True)
    assert again.returncode == 1
    assert "already" in again.stderr


def test_the_api_key_is_an_administrators(secrets):
    folder, key = secrets
    principal = ApiKeys(folder / "api_keys.json").check(key)
    assert (principal.tenant, principal.roles) == ("operator", {"admin"})


@pytest.fixture
def redis_port(secrets: tuple[Path, str], tmp_path: Path) -> Iterator[int]:
    """Redis as it is configured here, but for its places."""
    text = (FOLDER / "redis.conf").read_text()
    places = {"bind \\* -::\\*": "bind 127.0.0.1", "dir /data": f"dir {tmp_path}"}
    places["include .*"] = f"include {secrets[0]}/redis_users.conf"
    for there, here in places.items():
        text, count = re.subn(there, here, text)
        assert count == 1, there
    (tmp_path / "redis.conf").write_text(text)
    port = free_port()
    command = [redis_binary(), tmp_path / "redis.conf", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.kill()


def connected(port: int, **credentials: str) -> redis.Redis:
    client = redis.Redis(port=port, retry=Retry(NoBackoff(), 0), **credentials)
    for _ in range(100):
        try:
            client.exists("x")
        except (AuthenticationError, NoPermissionError):
            return client
        except redis.ConnectionError:
            time.sleep(0.05)
        else:
            return client
    raise TimeoutError("Redis does not start")


def test_redis_keeps_jobs_and_knows_its_users(secrets, redis_port):
    assert (FILE["services"]["server"]["secrets"][0], FILE["services"]["worker"]["secrets"][0]) == tuple(
        {"source": f"redis_{user}", "target": "convlens_redis"} for user in ("frontend", "worker")
    )
    for user in ("frontend", "worker"):
        url = (secrets[0] / f"redis_{user}").read_text()
        password = re.fullmatch(rf"redis://{user}:([0-9a-f]{{64}})@redis:6379/0", url)[1]
        with connected(redis_port, username=user, password=password) as ours:
            assert ours.hset("convlens:operation:x", "state", 1) == 1
            assert ours.delete("convlens:operation:x") == 1
            for forbidden in (
                ("FLUSHALL",),
                ("CONFIG", "SET", "maxmemory", "0"),
                ("ACL", "LIST"),
                ("SHUTDOWN",),
                ("SET", "elsewhere", "1"),
                ("KEYS", "*"),
            ):
                with pytest.raises(NoPermissionError):
                    ours.execute_command(*forbidden)
    with connected(redis_port, username="probe", password="any") as probe:
        assert probe.ping()
        with pytest.raises(NoPermissionError):
            probe.get("rq:queue:x")
    with connected(redis_port) as anonymous, pytest.raises(AuthenticationError):
        anonymous.ping()


PROGRAM = """
import os
from convlens_workers.jobs.settings import JobSettings
print(JobSettings().redis)
os.environ["CONVLENS_REDIS"] = "redis://there/0"
print(JobSettings().redis)
"""


def test_settings_come_from_files_unless_the_environment_says_otherwise(secrets):
    folder, _ = secrets
    url = (folder / "redis_worker").read_text()
    (folder / "convlens_redis").write_text(url)
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"CONVLENS_SECRETS": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [url, "redis://there/0"]


def test_the_dashboard_is_one():
    assert json.loads((ROOT / "deploy/monitoring/dashboard.json").read_text())["panels"]
