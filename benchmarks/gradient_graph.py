"""The generated gradient graph against the forward pass, and against Captum in eager PyTorch."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from captum.attr import Saliency

from benchmarks.race import Row, race, table
from convlens_models.graphs.autodiff import COTANGENT, ReluRule, differentiate
from convlens_models.graphs.surgery import cut, static
from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import INPUT, PROBABILITIES
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository, StoredModel

ROUNDS = 150
DATA = Path(os.environ.get("CONVLENS_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
WEIGHTS = DATA / "models" / "squeezenet1_0.safetensors"


def run() -> str:
    """The section of the results: SqueezeNet 1.0 with its real weights if they are there, and `patterns`."""
    sections = [
        "## Gradient graphs",
        "One thread, batch 1; the forward pass is that of Classify, static sizes.",
    ]
    if WEIGHTS.is_file():
        with tempfile.TemporaryDirectory() as folder:
            add_architecture(Path(folder), "squeezenet1_0", WEIGHTS)
            sections += _compare(ModelRepository(Path(folder)).get("squeezenet1_0"))
    else:
        sections.append(f"SqueezeNet 1.0 skipped: no {WEIGHTS.name}; set CONVLENS_TEST_DATA.")
    sections += _compare(ModelRepository(None).get("patterns"))
    return "\n\n".join(sections)


def _compare(stored: StoredModel) -> list[str]:
    torch.set_num_threads(1)
    manifest, forward = stored.manifest, stored.forward()
    size, output = manifest.input_size, manifest.output
    image = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    cotangent = np.eye(len(manifest.labels), dtype=np.float32)[:1]
    network, picture = load_network(stored), torch.from_numpy(image).requires_grad_()

    def eager() -> torch.Tensor:
        gradient: torch.Tensor = Saliency(network).attribute(picture, target=0, abs=False)
        return gradient

    sizes = (1, size, size)
    classify = static(cut(forward, [PROBABILITIES]), sizes)
    graphs = {
        "gradient": differentiate(forward, output, ReluRule.GRADIENT, sizes),
        "dynamic": differentiate(forward, output),
        "guided": differentiate(forward, output, ReluRule.GUIDED, sizes),
    }
    feeds = {INPUT: image, COTANGENT: cotangent}
    contestants: dict[str, Callable[[], Any]] = {"forward": _runner(classify, stored.path, {INPUT: image})}
    contestants |= {name: _runner(graph, stored.path, feeds) for name, graph in graphs.items()}
    actual, expected = contestants["gradient"]()[1], eager().numpy()
    # Two inputs of a pool that nearly tie may change places between float32 implementations.
    if np.linalg.norm(actual - expected) > 2e-2 * np.linalg.norm(expected):
        raise AssertionError(f"{manifest.name}: the gradient graph and Captum disagree")
    seconds = race({**contestants, "eager": eager}, ROUNDS)
    rows = [
        Row.of("gradient graph, fixed sizes / forward", seconds["gradient"], seconds["forward"], "2.9 (2.6)"),
        Row.of("gradient graph, open sizes / forward", seconds["dynamic"], seconds["forward"], "3.4"),
        Row.of("gradient graph / Captum Saliency, eager", seconds["gradient"], seconds["eager"], "0.6 (0.5)"),
        Row.of("guided backprop / gradient", seconds["guided"], seconds["gradient"], "1.05"),
    ]
    profile = _profile(graphs["gradient"], classify, stored.path, feeds)
    return [f"### {manifest.name}, {size} px", table(rows), profile]


def _session(model: onnx.ModelProto, folder: Path, profile: str = "") -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder.resolve())
    )
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _runner(model: onnx.ModelProto, folder: Path, feeds: dict[str, np.ndarray]) -> Callable[[], Any]:
    session = _session(model, folder)
    return lambda: session.run(None, feeds)


def _profile(
    gradient: onnx.ModelProto, forward: onnx.ModelProto, folder: Path, feeds: dict[str, np.ndarray]
) -> str:
    """Where the gradient graph's time goes: per operator, in units of the forward pass."""
    with tempfile.TemporaryDirectory() as scratch:
        sessions = [_session(model, folder, f"{scratch}/{i}") for i, model in enumerate((gradient, forward))]
        for _ in range(40):
            sessions[0].run(None, feeds)
            sessions[1].run(None, {INPUT: feeds[INPUT]})
        spent, whole = (_spent(json.loads(Path(s.end_profiling()).read_text())) for s in sessions)
    unit = sum(whole.values())
    parts = [f"{kind} {seconds / unit:.2f}" for kind, seconds in spent.most_common(8)]
    return f"Operators of the gradient graph, forward pass = 1: {', '.join(parts)}."


def _spent(events: list[dict[str, object]]) -> Counter[str]:
    """Microseconds per operator: the sum over nodes of the lower quartile of the node's runs."""
    runs: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name = str(event["name"])
        if event.get("cat") == "Node" and name.endswith("kernel_time"):
            runs.setdefault((event["args"]["op_name"], name), []).append(event["dur"])  # type: ignore[index,arg-type]
    spent: Counter[str] = Counter()
    for (kind, _), durations in runs.items():
        spent[kind] += float(np.percentile(durations, 25))  # type: ignore[assignment]
    return spent
