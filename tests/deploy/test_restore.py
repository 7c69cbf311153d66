"""Backup and restore as docs/guides/backup.md says: a copy of Redis's folder, then one of the artifacts'."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.collections import picture
from support.faults import checkpointed, submit
from support.front_end import FrontEnd
from support.job_plane import dream, opened, sha256, undisturbed, until
from support.jobs import SUCCEEDED
from support.redis_server import RedisServer
from support.worker_process import WorkerProcess

from convlens_client import Client
from convlens_workers.settings import WorkerSettings


class Installation:
    """A Redis and a folder of artifacts, in `folder`."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.folder = folder
        self.redis = RedisServer(folder / "redis")
        self.redis.start()
        self.settings = WorkerSettings(
            redis=self.redis.url,
            artifacts=str(folder / "artifacts"),
            models=models,
            device="cpu",
            lease=1.0,
            checkpoint_interval=0.1,
        )

    def back_up(self, to: Path) -> None:
        """While everything runs; in this order. A checkpoint may go while it is copied."""
        to.mkdir()
        for part in ("redis", "artifacts"):
            subprocess.run(["cp", "--archive", self.folder / part, to], check=False)

    def lose(self) -> None:
        self.redis.kill()
        shutil.rmtree(self.folder)

    def front_end(self) -> FrontEnd:
        places = {"redis": self.redis.url, "artifacts": self.settings.artifacts}
        return FrontEnd(**places, models=self.settings.models, warm="[]")


@pytest.fixture
def lost(tmp_path: Path, tiny_models: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path / "lost", tiny_models)
    yield installation
    installation.redis.kill()


async def test_what_was_backed_up_is_there_again(
    lost: Installation, tmp_path: Path, tiny_models: Path
) -> None:
    """Results are read, the job that ran goes on or starts anew, to the same bytes; collections are whole."""
    first, second = dream(2), dream(200, seed=1)
    worker = WorkerProcess(lost.settings, tmp_path)
    try:
        async with opened(lost.settings) as store:
            worker.ready()
            done = await store.wait(await submit(store, first), 60)
            with lost.front_end() as server, Client(server.address) as client:
                client.create_collection("photos")
                client.add_images("photos", [("one.png", picture(1)), ("two.png", picture(2))])
            name = await submit(store, second)
            await until(store, name, checkpointed)
            lost.back_up(tmp_path / "found")
    finally:
        worker.end()
        lost.lose()
    found = Installation(tmp_path / "found", tiny_models)
    worker = WorkerProcess(found.settings, tmp_path)
    try:
        with found.front_end() as server, Client(server.address) as client:
            assert client.operation(done.name).result()["image"].shape == (1, 3, 32, 32)
            assert len(client.list_images("photos")) == 2
            async with opened(found.settings) as store:
                record = await store.wait(name, 60)
        assert (record.metadata.state, record.metadata.attempt) == (SUCCEEDED, 2), worker.describe()
        assert sha256(record) == undisturbed(tiny_models, second)
    finally:
        worker.end()
        found.redis.kill()
