"""Jobs from the client's side: futures that survive broken streams."""

from __future__ import annotations

import time

import numpy as np
import pytest
from support.fake_service import DREAM

from convlens.errors import Cancelled, DataLoss, DeadlineExceeded, NotFound
from convlens.v1 import job_pb2
from convlens_client.calls import Wait


@pytest.fixture
def operation(client, pixels):
    return client.deepdream(pixels, layers="features.3", steps=2, resize=512)


def test_a_job_is_submitted_with_its_parameters(operation, service):
    request = service.requests[0]
    assert list(request.deepdream.layers) == ["features.3"]
    assert request.deepdream.steps == 2
    assert not request.deepdream.HasField("octaves")
    assert request.deepdream.image.resize.fit.max_side == 512
    assert len(request.request_id) == 36
    assert operation.metadata.state == "QUEUED"
    assert operation.metadata.model == "patterns/1"
    assert operation.metadata.create_time is None


def test_the_result_comes_when_the_job_has_ended(operation, service):
    service.turns_to_finish = 3
    assert not operation.done()
    np.testing.assert_array_equal(operation.result()["image"], DREAM)
    assert operation.done()
    assert sum("WaitOperation" in type(request).__name__ for request in service.requests) == 3


def test_a_watcher_sees_each_event(operation):
    seen = list(operation.watch())
    assert [(item.state, item.step) for item in seen[:3]] == [("QUEUED", 0), ("RUNNING", 1), ("RUNNING", 2)]
    assert seen[-1].state == "SUCCEEDED"
    assert seen[-1].final
    assert seen[1].losses == {"norm": 1.5}


def test_a_watcher_misses_and_repeats_nothing_when_the_stream_breaks(operation, service):
    service.breaks = [2, 0, 3]
    assert [item.step for item in operation.watch()] == [0, 1, 2, 3, 4, 4]
    asked = [r.after_event_id for r in service.requests if isinstance(r, job_pb2.WatchJobRequest)]
    assert asked == ["", "2", "2", "5"]


def test_a_watcher_may_leave_early(operation):
    watcher = operation.watch()
    assert next(watcher).state == "QUEUED"
    watcher.close()


def test_an_artifact_goes_on_at_the_byte_where_it_broke(operation, service):
    service.breaks = [2, 0, 3]
    np.testing.assert_array_equal(operation.artifact("image"), DREAM)
    asked = [r.read_offset for r in service.requests if isinstance(r, job_pb2.ReadArtifactRequest)]
    assert asked == [0, 1 << 20, 1 << 20, 3 << 20]


def test_an_artifact_with_a_wrong_digest_is_refused(operation, service):
    def tamper(part):
        if part.HasField("header"):
            part.header.sha256 = "0" * 64
        return part

    service.tamper = tamper
    with pytest.raises(DataLoss, match="sha256"):
        operation.artifact("image")


def test_cancel_ends_the_job_and_result_says_so(operation):
    operation.cancel()
    assert operation.wait().state == "CANCELLED"
    with pytest.raises(Cancelled):
        operation.result()


def test_delete_removes_it(operation, client):
    operation.cancel()
    operation.delete()
    with pytest.raises(NotFound, match=operation.name):
        client.operation(operation.name)


def test_any_client_finds_it_again_by_name_or_id(operation, client):
    assert client.operation(operation.name).name == operation.name
    assert client.operation(operation.name.split("/")[1]).name == operation.name
    assert [job.name for job in client.operations()] == [operation.name]


def test_result_gives_up_at_its_timeout(operation, service, monkeypatch):
    service.turns_to_finish = 1000
    monkeypatch.setattr(Wait, "end", lambda call: time.sleep(0.1))
    with pytest.raises(DeadlineExceeded, match=r"0\.3 s"):
        operation.result(timeout=0.3)
