"""`AddModel`: networks that are sent are proven there, and seen by all servers of the repository."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from support.foreign_onnx import classifier, node, save
from support.networks import random_module, save_weights
from support.server_thread import serving

from convlens.errors import FailedPrecondition, InvalidArgument, PermissionDenied, from_rpc_error
from convlens.v1 import model_pb2, model_pb2_grpc
from convlens_client import Client
from convlens_client.cli import main
from convlens_client.cli.adding import asks_server
from convlens_models.importing import upload
from convlens_models.importing.publish import ADDING, LEFT_AFTER
from convlens_models.importing.upload import SentFile, Upload
from convlens_models.repository import ModelRepository
from convlens_models.runtime import ort
from convlens_server.app import App
from convlens_server.identity.keys import KeyFile, issue

SIDE = 16


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(classifier(size=("N", 3, SIDE, SIDE)), tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def app(root: Path) -> Iterator[App]:
    with serving(models=root, threads=2, max_model_megabytes=4) as app:
        yield app


@pytest.fixture
def client(app: App) -> Iterator[Client]:
    with Client(app.address) as client:
        yield client


def sent(path: Path, name: str = "net", **fields: Any) -> model_pb2.AddModelRequest:
    """The first message for one file."""
    data = path.read_bytes()
    file = {"name": path.name, "bytes": len(data), "digest": hashlib.sha256(data).hexdigest()}
    return model_pb2.AddModelRequest(model=model_pb2.NewModel(name=name, **{"files": [file], **fields}))


def pieces(path: Path, size: int = 400) -> list[model_pb2.AddModelRequest]:
    data = path.read_bytes()
    return [
        model_pb2.AddModelRequest(
            piece=model_pb2.ModelPiece(offset=offset, data=data[offset : offset + size])
        )
        for offset in range(0, len(data), size)
    ]


PUBLISH = model_pb2.AddModelRequest(publish=model_pb2.Publish())


def exchange(app: App, requests: list[model_pb2.AddModelRequest]) -> list[model_pb2.AddModelResponse]:
    with grpc.insecure_channel(app.address) as channel:
        call = model_pb2_grpc.ModelServiceStub(channel).AddModel(iter(requests), timeout=300)
        try:
            return list(call)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None


def left(root: Path) -> list[str]:
    return [path.name for path in root.glob(f"{ADDING}*") if (path / "files").exists()]


def test_what_is_sent_is_served_by_all_servers_of_the_repository(client: Client, root: Path, network: Path):
    labels = network.with_name("labels.txt")
    labels.write_text("ant\nbee\ncat\ndog\nelk\n")
    with serving(models=root, threads=1) as other, Client(other.address) as neighbour:
        assert "sent" not in {model.name for model in neighbour.list_models()}
        added = client.add_model(network, "sent", labels=labels, mean=(0, 0, 0), std=(1, 1, 1))
        assert (added.name, added.version, added.output_kind) == ("sent", 1, "probabilities")
        images = np.random.default_rng(0).random((2, 3, SIDE, SIDE), np.float32)
        expected = ort.InferenceSession(str(network)).run(None, {"data": images})[0]
        for one in (client, neighbour):
            answers = one.classify(images, model="sent")
            assert [answer.top.label for answer in answers] == [
                ("ant", "bee", "cat", "dog", "elk")[index] for index in expected.argmax(1)
            ]
            np.testing.assert_allclose([a.top.probability for a in answers], expected.max(1), rtol=1e-4)
    assert not left(root)


def test_weights_of_an_architecture_are_added_too(client: Client, tmp_path: Path):
    weights = save_weights(random_module("patterns", 3), tmp_path / "w.safetensors")
    added = client.add_model(weights, "shapes", architecture="patterns")
    assert (added.architecture, added.version, len(added.labels)) == ("patterns", 1, 3)
    with pytest.raises(InvalidArgument, match=r"model\.bgr = True: must be left out with an architecture"):
        client.add_model(weights, "shapes", architecture="patterns", bgr=True)


def test_what_broke_goes_on_where_it_was_and_is_published_once(app: App, root: Path, network: Path):
    first, parts = sent(network, "broken"), pieces(network)
    assert len(parts) > 3
    stored = [reply.stored for reply in exchange(app, [first, *parts[:2]])]
    assert stored == [400, 800]
    assert len(left(root)) == 1
    with pytest.raises(FailedPrecondition, match=r"foreign.onnx 800 of .* bytes have come: send"):
        exchange(app, [first, PUBLISH])
    with pytest.raises(
        InvalidArgument, match=r"piece.offset = '1200 and 400 bytes': must be 800, as is stored"
    ):
        exchange(app, [first, parts[3]])
    replies = exchange(app, [first, parts[1], *parts[2:], PUBLISH])  # The second is there, and said so.
    assert replies[0].stored == 800
    assert replies[-1].model.version == 1
    again = exchange(app, [first, *parts, PUBLISH])
    assert again[-1].model == replies[-1].model
    assert ModelRepository(root).versions("broken") == [1]


REFUSED = {
    "name": (b"x", {"name": "No"}, "model.name = 'No'"),
    "kind": (b"x", {"output_kind": "logits"}, "model.output_kind = 'logits': must be one of scores, prob"),
    "range": (b"x", {"input_range": "0..2"}, "model.input_range = '0..2': must be one of 0..1, 0..255"),
    "mean": (b"x", {"mean": [1, 2]}, r"model.mean = .*: must be none or three numbers"),
    "too large": (b"x" * ((4 << 20) + 1), {}, r"model.files = '4.0 MiB': must be at most 4 MiB"),
    "folder": (b"x", {"files": [{"name": "../x", "bytes": 1, "digest": "0" * 64}]}, r"model.files\[0\].name"),
    "digest": (
        b"x", {"files": [{"name": "x.onnx", "bytes": 1, "digest": "0" * 64}]}, r"model.files\[0\].digest"
    ),
    "style": (b"x", {"name": "patterns", "architecture": "fast_style"}, "'patterns': must be another"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_nothing(case: str, app: App, root: Path, tmp_path: Path):
    data, fields, message = REFUSED[case]
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    before = left(root)
    with pytest.raises(InvalidArgument, match=message):
        exchange(app, [sent(path, **fields), *pieces(path, 1 << 20), PUBLISH])
    assert left(root) == before
    assert not ModelRepository(root).versions("net")


def test_a_network_that_cannot_be_differentiated_is_refused_as_the_command_does(
    client: Client, root: Path, tmp_path: Path
):
    path = save(classifier([node("Hardmax", ["relu"], "middle")]), tmp_path)
    with pytest.raises(InvalidArgument, match=r"no rule for Hardmax \(node of middle\)"):
        client.add_model(path, "hard")
    assert not left(root)


def test_parts_come_in_order(app: App, network: Path):
    for requests, field in (
        ([PUBLISH], "publish"),
        (pieces(network)[:1], "piece"),
        ([sent(network, "order"), sent(network, "order")], "model"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            exchange(app, requests)
        assert caught.value.field == field


def test_the_process_that_looks_at_it_has_bounds(root: Path, network: Path):
    with (
        serving(models=root, import_seconds=0.05) as app,
        Client(app.address) as client,
        pytest.raises(InvalidArgument, match=r"importing it takes more than 0\.05 s"),
    ):
        client.add_model(network, "slow")
    assert not ModelRepository(root).versions("slow")


def test_a_repository_that_cannot_be_written_is_told(network: Path):
    with (
        serving(models=Path("/proc/models")) as app,
        Client(app.address) as client,
        pytest.raises(FailedPrecondition, match="the model repository cannot be written: "),
    ):
        client.add_model(network, "net")


def test_only_administrators_add(root: Path, tmp_path: Path, network: Path):
    keys, told = tmp_path / "keys.json", {}
    for tenant, roles in (("blue", frozenset[str]()), ("red", frozenset({"admin"}))):
        told[tenant] = issue(tenant, roles)
    keys.write_text(KeyFile(keys=tuple(kept for _, kept in told.values())).model_dump_json())
    refused = {"blue": (PermissionDenied, "role 'admin'"), "red": (InvalidArgument, r"model\.name = 'No'")}
    with serving(models=root, api_keys=keys) as app:
        for tenant, (error, message) in refused.items():
            with Client(app.address, token=told[tenant][0]) as client, pytest.raises(error, match=message):
                client.add_model(network, "No")


def test_an_upload_of_yesterday_goes_when_the_next_begins(tmp_path: Path):
    old = Upload(tmp_path, b"old", [SentFile("x", 3, "0" * 64)])
    assert old.add(0, 0, b"ab") == 2
    past = time.time() - LEFT_AFTER - 60
    os.utime(old.folder, (past, past))
    Upload(tmp_path, b"new", [SentFile("x", 3, "0" * 64)])
    assert not old.folder.exists()
    with pytest.raises(FailedPrecondition, match="has ended meanwhile"):
        old.add(0, 2, b"c")


def test_a_server_that_waits_for_another_stops_when_it_is_told(tmp_path: Path):
    one, two = (Upload(tmp_path, b"same", [SentFile("x", 1, "0" * 64)]) for _ in range(2))
    with one._locked(lambda: False), pytest.raises(upload.Cancelled):
        two.publish(lambda _: pytest.fail("it was not ours"), lambda: True)


def test_the_command_sends_to_the_server_that_is_named_and_data_beside_the_file(
    app: App,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    path = tmp_path / "net.onnx"
    model = classifier(size=("N", 3, SIDE, SIDE))
    onnx.save(model, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    monkeypatch.delenv("CONVLENS_MODELS", raising=False)
    with pytest.raises(SystemExit, match="0"):
        main(["models", "add", "--server", app.address, "--onnx", str(path), "--name", "typed"])
    assert "added typed/1: onnx, 5 classes, from probabilities" in capsys.readouterr().out
    assert ModelRepository(root).versions("typed") == [1]


WHERE = {
    "nothing": ([], {}, False),
    "server": (["--server", "x:1"], {"CONVLENS_MODELS": "here"}, True),
    "with =": (["--server=x:1"], {}, True),
    "models": (["--models", "here"], {"CONVLENS_SERVER": "x:1"}, False),
    "server's variable": ([], {"CONVLENS_SERVER": "x:1"}, True),
    "both variables": ([], {"CONVLENS_SERVER": "x:1", "CONVLENS_MODELS": "here"}, False),
}


@pytest.mark.parametrize("case", WHERE)
def test_what_is_typed_says_where_a_network_goes_and_then_the_environment(
    case: str, monkeypatch: pytest.MonkeyPatch
):
    arguments, variables, expected = WHERE[case]
    for name in ("CONVLENS_MODELS", "CONVLENS_SERVER"):
        monkeypatch.setenv(name, variables.get(name, ""))
    assert asks_server(["net", *arguments]) == expected
