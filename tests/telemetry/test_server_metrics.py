"""What the server counts, and in whose words."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from support.redis_server import free_port
from support.replies import error_of
from support.scraping import settled
from support.server_thread import serving

from convlens import errors
from convlens.v1 import image_pb2, inspection_pb2, inspection_pb2_grpc, model_pb2, model_pb2_grpc
from convlens_server.telemetry.metrics import go_name

MODELS = 'grpc_service="convlens.v1.ModelService",grpc_type="unary"'
FILTERS = 'grpc_method="GetFilters",grpc_service="convlens.v1.ModelService",grpc_type="server_stream"'


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, grpc.Channel]]:
    metrics = f"127.0.0.1:{free_port()}"
    models = tmp_path_factory.mktemp("models")
    with (
        serving(models=models, metrics_listen=metrics, tenant_rate=5.0) as app,
        grpc.insecure_channel(app.address) as channel,
    ):
        yield metrics, channel


@pytest.fixture
def metrics(server) -> str:
    return server[0]


@pytest.fixture
def channel(server) -> grpc.Channel:
    return server[1]


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What has grown between two scrapes, by how much."""
    return {name: value - before.get(name, 0) for name, value in after.items() if value > before.get(name, 0)}


def test_calls_are_counted_by_their_codes_as_go_names_them(metrics, channel) -> None:
    before, stub = settled(metrics), model_pb2_grpc.ModelServiceStub(channel)
    stub.GetModel(model_pb2.GetModelRequest())
    error = error_of(stub.GetModel, model_pb2.GetModelRequest(model={"name": "absent"}))
    assert isinstance(error, errors.NotFound)
    parts = len(list(stub.GetFilters(model_pb2.GetFiltersRequest(layer="features.conv1"))))
    assert parts > 1
    more = grown(before, settled(metrics))
    assert more[f'grpc_server_started_total{{grpc_method="GetModel",{MODELS}}}'] == 2
    assert more[f'grpc_server_handled_total{{grpc_code="OK",grpc_method="GetModel",{MODELS}}}'] == 1
    assert more[f'grpc_server_handled_total{{grpc_code="NotFound",grpc_method="GetModel",{MODELS}}}'] == 1
    assert more[f'grpc_server_handling_seconds_count{{grpc_method="GetModel",{MODELS}}}'] == 2
    assert more[f'grpc_server_handled_total{{grpc_code="OK",{FILTERS}}}'] == 1
    assert more['convlens_phase_seconds_count{phase="encode"}'] == 1  # Once a call, whatever its parts.


def test_every_phase_of_a_call_is_seen(metrics, channel, pixels) -> None:
    stub = inspection_pb2_grpc.InspectionServiceStub(channel)
    before = settled(metrics)
    images = [image_pb2.Image(encoded=pixels)]
    request = inspection_pb2.GetActivationsRequest(images=images, layers=["features.conv1"])
    list(stub.GetActivations(request))
    after = settled(metrics)
    more = grown(before, after)
    for phase in ("queue", "decode", "compute", "encode"):
        assert more[f'convlens_phase_seconds_count{{phase="{phase}"}}'] == 1, phase
    together = sum(more[f'convlens_phase_seconds_sum{{phase="{phase}"}}'] for phase in ("decode", "compute"))
    whole = sum(value for name, value in more.items() if name.startswith("grpc_server_handling_seconds_sum"))
    assert 0 < together <= whole
    assert after["convlens_models_loaded"] == 1
    assert after["convlens_session_bytes"] > 0


def test_it_tells_how_full_it_is(metrics) -> None:
    found = settled(metrics)
    assert found["convlens_ready"] == 1
    assert found["convlens_lanes"] >= 1
    assert found["convlens_calls_in_flight"] == found["convlens_calls_computing"] == 0
    assert found["convlens_calls_waiting"] == 0
    assert found["process_resident_memory_bytes"] > 1 << 20


def test_methods_that_nobody_has_called_stand_at_0(metrics) -> None:
    method = 'grpc_method="Attack",grpc_service="convlens.v1.AttackService",grpc_type="server_stream"'
    assert settled(metrics)[f'grpc_server_handled_total{{grpc_code="OK",{method}}}'] == 0


def test_inventing_methods_makes_no_label(metrics, channel) -> None:
    before = settled(metrics)
    for number in range(20):
        for path in (f"/convlens.v1.ModelService/Paint{number}", f'/a{number}"}} 1\n/b'):
            assert isinstance(error_of(channel.unary_unary(path), b""), errors.Unimplemented)
    assert settled(metrics).keys() == before.keys()


def test_refusals_are_counted_by_their_reason(metrics, channel) -> None:
    stub = model_pb2_grpc.ModelServiceStub(channel)
    before = settled(metrics)
    codes = [_code(stub) for _ in range(100)]
    more = grown(before, settled(metrics))
    refused = codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert refused > 0
    assert more['convlens_refused_total{reason="TENANT_RATE"}'] == refused


def _code(stub: model_pb2_grpc.ModelServiceStub) -> grpc.StatusCode:
    try:
        stub.ListModels(model_pb2.ListModelsRequest())
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("OK", "OK"),
        ("CANCELLED", "Canceled"),
        ("INVALID_ARGUMENT", "InvalidArgument"),
        ("INTERNAL", "Internal"),
    ],
)
def test_codes_in_the_words_of_go(ours: str, theirs: str) -> None:
    assert go_name(ours) == theirs
