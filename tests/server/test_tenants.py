"""Jobs and collections of one tenant are not there for another; certificates name tenants; quotas hold."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.collections import picture
from support.redis_server import RedisServer
from support.server_thread import serving
from support.worker_by_hand import WorkerByHand

from convlens.errors import ConvLensError, NotFound, ResourceExhausted, Unauthenticated, Unavailable
from convlens_client import Client
from convlens_server.app import App
from convlens_server.identity.keys import KeyFile, issue
from convlens_server.identity.principal import Principal, current
from convlens_server.request import request_context
from convlens_server.serving.quotas import Quotas
from convlens_server.settings import ServerSettings
from convlens_workers.settings import WorkerSettings


@pytest.fixture
def two(redis_server: RedisServer, tmp_path: Path) -> Iterator[tuple[App, Client, Client]]:
    """A server, and a client of each of its tenants."""
    (red, first), (blue, second) = issue("red"), issue("blue")
    (tmp_path / "keys.json").write_text(KeyFile(keys=(first, second)).model_dump_json())
    artifacts = str(tmp_path / "artifacts")
    with (
        serving(redis=redis_server.url, artifacts=artifacts, api_keys=tmp_path / "keys.json") as app,
        Client(app.address, token=red) as ours,
        Client(app.address, token=blue) as theirs,
    ):
        yield app, ours, theirs


def test_a_foreign_job_is_not_there(two: tuple[App, Client, Client], pixels: np.ndarray) -> None:
    _, ours, theirs = two
    id_ = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
    job = ours.deepdream(pixels, request_id=id_)
    asks: dict[str, Any] = {
        "get": lambda client: client.operation(job.name),
        "watch": lambda client: next(iter(client.operation(job.name).watch())),
        "cancel": lambda client: client.operation(job.name).cancel(),
        "delete": lambda client: client.operation(job.name).delete(),
        "request": lambda client: client.job_request(job.name),
        "rerun": lambda client: client.rerun(job.name),
        "resume": lambda client: client.resume(job.name),
    }
    for ask in asks.values():
        with pytest.raises(NotFound):
            ask(theirs)
    for raw in ("cancel", "delete", "watch", "wait"):
        with pytest.raises(NotFound):
            run(theirs, raw, job.name)
    assert theirs.operations() == []
    assert [item.name for item in ours.operations()] == [job.name]
    other = theirs.deepdream(pixels, request_id=id_)
    assert other.name != job.name
    assert ours.operation(job.name).metadata.state == "QUEUED"


def run(client: Client, name: str, operation: str) -> None:
    from convlens_client import requests

    for _ in client.follow(getattr(requests, name)(operation), 5):
        pass


def test_a_foreign_artifact_cannot_be_read(
    two: tuple[App, Client, Client], redis_server: RedisServer, pixels: np.ndarray, tmp_path: Path
) -> None:
    _, ours, theirs = two
    job = ours.deepdream(pixels)
    with WorkerByHand(
        WorkerSettings(redis=redis_server.url, artifacts=str(tmp_path / "artifacts"))
    ) as worker:
        worker.succeed(worker.take())
    assert ours.operation(job.name).metadata.state == "SUCCEEDED"
    from convlens_client import requests

    with pytest.raises(NotFound, match="no operation"):
        theirs.run(requests.read_artifact(job.name, "image"))


def test_a_foreign_collection_is_not_there(two: tuple[App, Client, Client]) -> None:
    _, ours, theirs = two
    ours.create_collection("photos")
    ours.add_images("photos", [("one.png", picture(1))])
    asks = (
        lambda: theirs.get_collection("photos"),
        lambda: theirs.list_images("photos"),
        lambda: theirs.get_image("photos", "one.png"),
        lambda: theirs.delete_collection("photos"),
        lambda: theirs.add_images("photos", [("two.png", picture(2))]),
        lambda: theirs.extract_features("photos", layers=["features.relu2"]),
    )
    for ask in asks:
        with pytest.raises(NotFound, match="'photos'"):
            ask()
    assert list(theirs.list_collections()) == []
    theirs.create_collection("photos")
    assert theirs.get_collection("photos").images == 0
    theirs.delete_collection("photos")
    assert [found.id for found in ours.list_collections()] == ["photos"]
    assert ours.get_collection("photos").images == 1
    assert ours.get_image("photos", "one.png")


def test_a_job_on_a_collection_finds_its_tenants_images(
    two: tuple[App, Client, Client], redis_server: RedisServer, tmp_path: Path
) -> None:
    """The worker, who knows no tenants, is told where they lie."""
    from convlens.v1 import job_pb2
    from convlens_workers.collections import CollectionFiles
    from convlens_workers.jobs.artifacts import ArtifactStore

    _, ours, _ = two
    ours.create_collection("photos")
    ours.add_images("photos", [("one.png", picture(1))])
    ours.extract_features("photos", layers=["features.relu2"])
    settings = WorkerSettings(redis=redis_server.url, artifacts=str(tmp_path / "artifacts"))
    with WorkerByHand(settings) as worker:
        attempt = worker.take()
        data = ArtifactStore(settings.artifacts_url()).get(attempt.id, "request", attempt.request)
        request = job_pb2.SubmitJobRequest.FromString(data)
        params = request.extract_features
        files = CollectionFiles(settings.artifacts_url())
        (image,) = files.shard(params.collection, params.shards[0])
        assert files.image(params.collection, image) == picture(1)
        worker.succeed(attempt)


class Authority:
    """Signs certificates, and writes them as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.certificate = self._sign(self.name, self.key, authority=True)
        self.path = self._write("authority.pem", self.certificate)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of `name`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / f"{name}.key").write_bytes(pem)
        return self._write(f"{name}.pem", self._sign(subject, key)), self.folder / f"{name}.key"

    def _sign(self, subject: x509.Name, key: Any, *, authority: bool = False) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        path = self.folder / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "known").mkdir()
    return Authority(tmp_path / "known")


def test_a_certificate_is_a_credential_and_others_do_not_connect(
    authority: Authority, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    pixels: np.ndarray,
) -> None:  # fmt: skip
    certificate, key = authority.issue("server")
    (tmp_path / "strange").mkdir()
    settings = {
        "listen": "localhost:0",
        "tls_certificate": certificate,
        "tls_key": key,
        "tls_client_authorities": authority.path,
        "redis": redis_server.url,
        "artifacts": str(tmp_path / "artifacts"),
    }

    def client(pair: tuple[Path, Path] | None, address: str) -> Client:
        certificate, key = pair or ("", "")
        monkeypatch.setenv("CONVLENS_CLIENT_CERTIFICATE", str(certificate))
        monkeypatch.setenv("CONVLENS_CLIENT_KEY", str(key))
        return Client(address, tls=authority.path, timeout=3)

    with serving(**settings) as app:
        with (
            client(authority.issue("red"), app.address) as ours,
            client(authority.issue("blue"), app.address) as theirs,
        ):
            job = ours.deepdream(pixels)
            with pytest.raises(NotFound):
                theirs.operation(job.name)
            assert [found.name for found in ours.operations()] == [job.name]
        for pair in (None, Authority(tmp_path / "strange").issue("red")):
            with client(pair, app.address) as stranger, pytest.raises(Unavailable):
                stranger.list_models()


def test_a_replaced_certificate_counts_without_a_restart(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    (tmp_path / "new").mkdir()
    after = Authority(tmp_path / "new")
    keys = issue("red")
    (tmp_path / "keys.json").write_text(KeyFile(keys=(keys[1],)).model_dump_json())
    settings = {"tls_certificate": certificate, "tls_key": key, "api_keys": tmp_path / "keys.json"}
    with serving(listen="localhost:0", **settings) as app:
        with Client(app.address, tls=authority.path, token=keys[0]) as client:
            assert client.list_models()
        with Client(app.address, tls=authority.path) as client, pytest.raises(Unauthenticated):
            client.list_models()
        newer, its_key = after.issue("server")
        key.write_bytes(its_key.read_bytes())
        certificate.write_bytes(newer.read_bytes())
        time.sleep(1.2)
        with Client(app.address, tls=after.path, token=keys[0], timeout=10) as client:
            assert client.list_models()
        with (
            Client(app.address, tls=authority.path, token=keys[0], timeout=2) as client,
            pytest.raises(ConvLensError),
        ):
            client.list_models()


async def call_of(tenant: str, quotas: Quotas, within: Any = None) -> None:
    context = request_context.RequestContext("/m", SimpleNamespace())
    current.set(Principal(tenant, tenant))

    async def proceed(_: request_context.RequestContext) -> None:
        if within is not None:
            await within

    await quotas.middleware(context, proceed)


async def test_a_tenant_has_so_many_calls_at_once() -> None:
    quotas, done = Quotas(ServerSettings(tenant_calls=2, redis="")), asyncio.Event()
    running = [asyncio.create_task(call_of("red", quotas, done.wait())) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="2 calls under way") as raised:
        await call_of("red", quotas)
    assert (raised.value.reason, raised.value.retry_after) == ("TENANT_CALLS", 1.0)
    await asyncio.create_task(call_of("blue", quotas))
    done.set()
    await asyncio.gather(*running)
    await call_of("red", quotas)


async def test_who_is_kept_waiting_by_others_is_not_told_that_it_is_his_quota() -> None:
    settings, others = ServerSettings(tenant_calls=1, redis=""), True
    quotas = Quotas(settings, waits_for_others=lambda tenant: tenant == "red" and others)
    done = asyncio.Event()
    running = asyncio.create_task(call_of("red", quotas, done.wait()))
    await asyncio.sleep(0)
    for reason, text in (("QUEUE_FULL", "busy with others"), ("TENANT_CALLS", "the most it may")):
        with pytest.raises(ResourceExhausted, match=text) as raised:
            await call_of("red", quotas)
        assert (raised.value.reason, raised.value.retry_after) == (reason, 1.0)
        others = False
    done.set()
    await running


async def test_items_of_a_stream_count_as_calls_and_wait_for_their_turn() -> None:
    now, sleeps = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        sleeps.append(seconds)
        now += seconds

    async def items() -> AsyncIterator[int]:
        for number in range(13):
            yield number

    quotas = Quotas(ServerSettings(tenant_rate=1.0, redis=""), lambda: now, sleep=sleep)
    token = current.set(Principal("red", "red"))
    context = request_context.RequestContext("m", cast("Any", None), "stream_stream", items())

    async def proceed(context: request_context.RequestContext) -> list[int]:
        return [item async for item in context.request]

    assert await quotas.middleware(context, proceed) == list(range(13))
    assert sleeps == pytest.approx([1, 1, 1])  # Ten at once, and then one a second.
    with pytest.raises(ResourceExhausted, match="1 calls a second"):
        await quotas.middleware(context, proceed)
    current.reset(token)


async def test_a_tenant_makes_so_many_calls_a_second() -> None:
    now = 0.0
    quotas = Quotas(ServerSettings(tenant_rate=2.0, redis=""), lambda: now)
    for _ in range(20):
        await call_of("red", quotas)
    with pytest.raises(ResourceExhausted) as raised:
        await call_of("red", quotas)
    assert raised.value.retry_after == pytest.approx(0.5)
    await asyncio.create_task(call_of("blue", quotas))
    now += 1.0
    for _ in range(2):
        await call_of("red", quotas)
    with pytest.raises(ResourceExhausted):
        await call_of("red", quotas)
