"""The server under load, against ONNX Runtime in the caller's own process and against MLServer."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import onnx
import psutil
from onnx.external_data_helper import load_external_data_for_model

from benchmarks import serving_stream
from benchmarks.gradient_graph import WEIGHTS
from benchmarks.race import Row, table
from convlens.inference import open_inference_pb2 as pb
from convlens.inference import open_inference_pb2_grpc
from convlens_models.graphs.surgery import cut, static
from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import PROBABILITIES
from convlens_models.repository import ModelRepository, StoredModel
from convlens_server.cpus import cpus

PEERS: Final = Path(f"{sys.prefix}-bench") / "bin"
HERE: Final = Path(__file__).parent
LEVELS: Final = (1, 4, 16)
ROUNDS: Final = 8
SECONDS, LEAD = 2.0, 0.5
OURS, BARE, MLSERVER, WORKER = "ConvLens", "bare gRPC", "MLServer", "MLServer with its worker"
Environment = Mapping[str, str]

# What a client should do that sends large tensors; the same for all contestants.
KEEP_FREED: Final = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}

TEXT: Final = """## Serving

SqueezeNet 1.0 at 224 px, FP32, by `tritonclient`, in a process on the same CPUs as the servers. "In process"
is ONNX Runtime without a server, called from as many threads as there are clients; of a session on all CPUs
and one on a single CPU the one with more throughput at that number. "Bare gRPC" is a server of grpc.aio
around both sessions that checks, counts and logs nothing: what gRPC for Python takes by itself. MLServer
1.7.1 runs the same graph on all CPUs in a custom runtime, without a parallel worker and with the one that it
has by default.

Other processes had {busy:.0%} of the CPUs when the run began; above 10% the ratios say little."""


def run() -> str:
    """The section of the results."""
    if not WEIGHTS.is_file():
        return f"## Serving\n\nSkipped: no {WEIGHTS.name}; set CONVLENS_TEST_DATA."
    text = TEXT.format(busy=psutil.cpu_percent(2.0) / 100)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        repository = folder / "models"
        repository.mkdir()
        add_architecture(repository, "squeezenet1_0", WEIGHTS)
        stored = ModelRepository(repository).get("squeezenet1_0")
        graph = _graph(stored, folder / "graph.onnx")
        ours = stack.enter_context(convlens_server(repository, stored.manifest.name))
        servers = {OURS: ours, BARE: stack.enter_context(bare_server(graph))}
        for contestant, workers in ((MLSERVER, 0), (WORKER, 1)):
            servers[contestant] = stack.enter_context(mlserver(folder, graph, stored.manifest.name, workers))
        found = _load(stored, graph, servers)
        rows = [row for level in LEVELS for row in _rows(level, found[str(level)])]
        return "\n\n".join([text, table(rows), serving_stream.run(ours, stored)])


def _graph(stored: StoredModel, path: Path) -> Path:
    """The graph that the server runs for one image, with its weights in the file."""
    manifest = stored.manifest
    sizes = (1, manifest.input_size, manifest.input_size)
    graph = static(cut(stored.forward(), [PROBABILITIES, manifest.output]), sizes)
    load_external_data_for_model(graph, str(stored.path))
    for weights in graph.graph.initializer:
        weights.ClearField("data_location")
        weights.ClearField("external_data")
    onnx.save(graph, path)
    return path


@contextmanager
def convlens_server(repository: Path, model: str) -> Iterator[str]:
    """A server process as it is by default; its address."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CONVLENS_")}
    settings = {"LISTEN": "127.0.0.1:0", "REDIS": "", "MODELS": str(repository), "WARM": json.dumps([model])}
    environment = kept | {f"CONVLENS_{name}": value for name, value in settings.items()}
    with _process([sys.executable, "-m", "convlens_server"], environment, subprocess.PIPE) as running:
        assert running.stdout is not None
        ready = re.search(r"ready on (\S+)", running.stdout.readline())
        if ready is None:
            raise RuntimeError("convlens-server did not start")
        yield ready[1]


@contextmanager
def bare_server(graph: Path) -> Iterator[str]:
    """A process of grpc.aio around the session and nothing else; its address."""
    command = [sys.executable, "-m", "benchmarks.serving_bare", str(graph)]
    with _process(command, dict(os.environ), subprocess.PIPE) as running:
        assert running.stdout is not None
        yield running.stdout.readline().strip()


@contextmanager
def mlserver(folder: Path, graph: Path, model: str, workers: int) -> Iterator[str]:
    """An MLServer process; its address for gRPC."""
    place = folder / f"mlserver-{workers}"
    place.mkdir()
    http, rpc, metrics = _free_ports(3)
    settings = {"parallel_workers": workers, "http_port": http, "grpc_port": rpc, "metrics_port": metrics}
    settings |= {"host": "127.0.0.1", "debug": False, "metrics_dir": str(place)}
    parameters = {"uri": str(graph), "extra": {"threads": cpus()}}
    model_settings = {"name": model, "implementation": "serving_mlserver.Network", "parameters": parameters}
    (place / "settings.json").write_text(json.dumps(settings))
    (place / "model-settings.json").write_text(json.dumps(model_settings))
    environment = dict(os.environ) | {"PYTHONPATH": str(HERE)}
    with _process([str(PEERS / "mlserver"), "start", str(place)], environment):
        _wait_ready(f"127.0.0.1:{rpc}")
        yield f"127.0.0.1:{rpc}"


@contextmanager
def _process(
    command: list[str], environment: Environment, stdout: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    """Its logs go nowhere: each server writes those that it writes by default."""
    with subprocess.Popen(
        command, env=environment, stdout=stdout, stderr=subprocess.DEVNULL, text=True
    ) as running:
        try:
            yield running
        finally:
            running.terminate()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_ready(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=120)
        ready = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel).ServerReady
        while not ready(pb.ServerReadyRequest(), timeout=60).ready:
            time.sleep(0.2)


def _load(stored: StoredModel, graph: Path, servers: Mapping[str, str]) -> dict[str, Any]:
    plan = {
        "model": stored.manifest.name,
        "side": stored.manifest.input_size,
        "graph": str(graph),
        "threads": sorted({1, cpus()}),
        "servers": servers,
        "levels": LEVELS,
        "rounds": ROUNDS,
        "seconds": SECONDS,
        "lead": LEAD,
    }
    command = [str(PEERS / "python"), str(HERE / "serving_load.py")]
    environment = dict(os.environ) | KEEP_FREED
    done = subprocess.run(
        command, input=json.dumps(plan), env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def _rows(level: int, found: Mapping[str, list[dict[str, float]]]) -> list[Row]:
    values = {
        name: {what: np.array([block[what] for block in blocks]) for what in blocks[0]}
        for name, blocks in found.items()
    }
    sessions = [name for name in values if name.startswith("in process")]
    ceiling = max(sessions, key=lambda name: float(np.median(values[name]["throughput"])))
    clients = f"{level} client{'s' if level > 1 else ''}"
    rows = []
    for other, name in ((ceiling, "in process"), *((peer, peer) for peer in (BARE, MLSERVER, WORKER))):
        for what in ("throughput", "p50", "p99"):
            aim = AIMS.get((level, name, what), "")
            rows.append(Row.of(f"{clients}: {what} / {name}", values[OURS][what], values[other][what], aim))
    return rows


AIMS: Final = {
    (16, "in process", "throughput"): "at least 0.88",
    (16, MLSERVER, "throughput"): "at least 2.0",
    (16, WORKER, "throughput"): "at least 2.0",
    (16, MLSERVER, "p99"): "at most 0.5",
    (16, WORKER, "p99"): "at most 0.5",
    (1, "in process", "p50"): "at most 1.25",
}
