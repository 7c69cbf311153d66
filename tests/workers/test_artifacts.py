"""The artifact store: the same tests against a folder and against S3, for which moto's server stands in."""

from __future__ import annotations

import asyncio
import hashlib
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import from_url

from convlens.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from convlens_workers.jobs import ArtifactStore

ID, OTHER = "0" * 32, "1" * 32
DATA = bytes(range(256)) * 10_000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="module")
def s3() -> Iterator[Callable[[str], str]]:
    """Makes a bucket; gives its URL."""
    moto = pytest.importorskip("moto.server", reason="moto's server stands in for S3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)

        def bucket(name: str) -> str:
            put = urllib.request.Request(f"http://{host}:{port}/{name}", method="PUT")
            urllib.request.urlopen(put).close()
            return f"s3://{name}/some/prefix"

        yield bucket
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return (tmp_path / "artifacts").as_uri()
    return request.getfixturevalue("s3")(f"bucket-{time.monotonic_ns()}")


@pytest.fixture
def store(url: str) -> ArtifactStore:
    return ArtifactStore(url)


@pytest.fixture
def raw(url: str, store: ArtifactStore) -> Any:
    """The same place, without our care."""
    return from_url(url)


def test_credentials_may_be_files(
    s3: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3("of-files")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
        (tmp_path / name.lower()).write_text("from-a-file\n")
    monkeypatch.setenv("CONVLENS_SECRETS", str(tmp_path))
    store = ArtifactStore(url)
    assert store.get(ID, "request", store.put(ID, "request", DATA)) == DATA
    (tmp_path / "aws_secret_access_key").unlink()
    with pytest.raises(FailedPrecondition, match=r"CONVLENS_ARTIFACTS.*Key"):
        ArtifactStore(url)


def read(store: ArtifactStore, digest: str = DIGEST, size: int = len(DATA), offset: int = 0) -> bytes:
    async def all_of_it() -> bytes:
        return b"".join([piece async for piece in store.read(ID, digest, size, offset)])

    return asyncio.run(all_of_it())


def test_what_was_put_is_got(store: ArtifactStore) -> None:
    assert store.put(ID, "artifacts", DATA) == DIGEST
    assert store.put(ID, "artifacts", memoryview(DATA)) == DIGEST
    assert store.get(ID, "artifacts", DIGEST) == DATA


@pytest.mark.parametrize("offset", [0, 1, (1 << 20) - 1, 1 << 20, len(DATA)])
def test_reads_start_anywhere(store: ArtifactStore, offset: int) -> None:
    store.put(ID, "artifacts", DATA)
    assert read(store, offset=offset) == DATA[offset:]


def test_what_is_not_there_is_not_found(store: ArtifactStore) -> None:
    with pytest.raises(NotFound, match=DIGEST):
        store.get(ID, "request", DIGEST)
    with pytest.raises(NotFound, match=DIGEST):
        read(store)
    store.drop(ID, "request", DIGEST)


@pytest.mark.parametrize("damaged", [DATA[:-1] + b"x", DATA[:-1]], ids=["changed", "short"])
def test_damage_is_data_loss(store: ArtifactStore, raw: Any, damaged: bytes) -> None:
    store.put(ID, "artifacts", DATA)
    obstore.put(raw, f"operations/{ID}/artifacts/{DIGEST}", damaged)
    for look in (lambda: store.get(ID, "artifacts", DIGEST), lambda: read(store)):
        with pytest.raises(DataLoss):
            look()


def test_drops_leave_the_rest(store: ArtifactStore) -> None:
    kept, dropped = store.put(ID, "checkpoints", b"kept"), store.put(ID, "checkpoints", b"dropped")
    store.put(OTHER, "artifacts", b"other")
    store.drop(ID, "checkpoints", dropped)
    assert store.get(ID, "checkpoints", kept) == b"kept"
    store.drop_all(ID)
    with pytest.raises(NotFound):
        store.get(ID, "checkpoints", kept)
    assert list(store.idle(timedelta(0), datetime.now(UTC) + timedelta(seconds=5))) == [OTHER]
    assert list(store.idle(timedelta(days=1), datetime.now(UTC))) == []


def test_a_folder_shows_nothing_that_is_half_written(tmp_path: Path) -> None:
    """What a writer left behind that was killed is no object, and is in nobody's way."""
    store = ArtifactStore(tmp_path.as_uri())
    place = tmp_path / "operations" / ID / "artifacts"
    place.mkdir(parents=True)
    (place / f"{DIGEST}#1").write_bytes(DATA[:10])
    with pytest.raises(NotFound):
        store.get(ID, "artifacts", DIGEST)
    assert store.put(ID, "artifacts", DATA) == DIGEST
    assert read(store) == DATA


def test_a_place_that_cannot_be_written_says_when_to_come_back(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path.as_uri())
    (tmp_path / "operations").touch()
    with pytest.raises(Unavailable) as raised:
        store.put(ID, "artifacts", DATA)
    assert raised.value.retry_after == 5.0
