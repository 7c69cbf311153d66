"""What calls and jobs take: memory of fresh processes, CPU time as ratios; for limits and replicas."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import psutil
import torch
from safetensors.torch import save_file

from benchmarks.gradient_graph import WEIGHTS
from convlens_client import Channel, Client, Operation, Style
from convlens_client.up import Plan, running
from convlens_models.architectures import ARCHITECTURES
from convlens_models.importing.importer import add_architecture
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository, StoredModel

LANES: Final = 4
SECONDS: Final = 0.5
SAMPLES: Final = 16
"""Passes of the techniques that make many; their cost grows with that, their memory does not."""
BATCH: Final = 8
"""Pictures of a call where it has several."""
STEPS: Final = (2, 4, 12)
"""Of the jobs of one worker: the first warms it, the others' difference is what steps cost."""
SIDE: Final = 224

TEXT: Final = f"""## Sizing

Memory is the largest resident size of a fresh process (MiB), one process a row. Times are CPU times of that
process, on one thread a call; they vary with the machine, their ratios less. Pictures are of the model's
input size, one a call, {BATCH} in a batch. SmoothGrad, integrated gradients and PGD make {SAMPLES} passes
there and back, occlusion and RISE about 50 there; more take longer in proportion, and no more memory.
`resnet50` has random weights.

Other processes had {{busy:.0%}} of the CPUs when the run began."""

Quick = Callable[[Client, str, Any, str], object]
"""Calls the client about a model, with a picture and the name of a layer."""


def _attribute(technique: str, **parameters: Any) -> Quick:
    return lambda client, model, image, _: client.attribute(image, technique, model=model, **parameters)


QUICK: Final[Mapping[str, Quick]] = {
    "classify": lambda client, model, image, _: client.classify(image, model=model),
    "classify, a batch": lambda client, model, image, _: client.classify([image] * BATCH, model=model),
    "activations of a layer": lambda client, model, image, layer: client.activations(
        image, layer, model=model
    ),
    "gradient": _attribute("gradient"),
    "gradient, a batch": lambda client, model, image, _: client.attribute([image] * BATCH, model=model),
    "guided backprop": _attribute("guided_backprop"),
    "Grad-CAM": _attribute("grad_cam"),
    "guided Grad-CAM": _attribute("guided_grad_cam"),
    "SmoothGrad": _attribute("smoothgrad", samples=SAMPLES),
    "integrated gradients": _attribute("integrated_gradients", steps=SAMPLES),
    "occlusion": _attribute("occlusion", window=SIDE // 4, stride=SIDE // 8),
    "RISE": _attribute("rise", masks=50),
    "PGD": lambda client, model, image, _: client.attack(image, "pgd", steps=SAMPLES, model=model),
}

Long = Callable[[Client, Any, int], Operation]
"""Submits a job of so many steps on SqueezeNet, with a picture."""
LONG: Final[Mapping[str, Long]] = {
    "DeepDream, 384 px": lambda client, _, n: client.deepdream(_noise(384), octaves=1, steps=n, model=NAME),
    "feature visualisation": lambda client, _, n: client.visualise(
        [Channel("features.12", 3)], size=SIDE, steps=n, model=NAME
    ),
    "style transfer": lambda client, image, n: client.style_transfer(
        image, [Style(_noise(SIDE, 1))], first_steps=n, smallest=SIDE, model=NAME
    ),
    "texture": lambda client, image, n: client.texture(image, adam=True, scales=1, steps=n, model=NAME),
    "L-BFGS attack": lambda client, image, n: client.lbfgs_attack(image, 7, searches=1, steps=n, model=NAME),
    "Carlini & Wagner": lambda client, image, n: client.carlini_wagner(
        image, targets=7, searches=1, steps=n, no_early_stop=True, model=NAME
    ),
    "expectation over transformation": lambda client, image, n: client.expectation_attack(
        image, 7, samples=2, steps=n, angles=3, held_out=2, model=NAME
    ),
    "adversarial patch": lambda client, image, n: client.adversarial_patch(
        image, 7, held_out=image, samples=2, steps=n, model=NAME
    ),
    "BPDA against JPEG": lambda client, image, n: client.defence_attack(
        image, _label(client, image), steps=n, model=NAME
    ),
}
NAME: Final = "squeezenet1_0"


def run() -> str:
    """The section of the results."""
    if not WEIGHTS.is_file():
        return f"## Sizing\n\nSkipped: no {WEIGHTS.name}; set CONVLENS_TEST_DATA."
    sections = [TEXT.format(busy=psutil.cpu_percent(2.0) / 100)]
    with tempfile.TemporaryDirectory() as name, patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        models = Path(name, "models")
        models.mkdir()
        add_architecture(models, NAME, WEIGHTS)
        torch.manual_seed(0)
        save_file(ARCHITECTURES["resnet50"].build(1000).state_dict(), Path(name, "resnet50.safetensors"))
        add_architecture(models, "resnet50", Path(name, "resnet50.safetensors"))
        repository = ModelRepository(models)
        sections += [_quick(models, repository.get(model)) for model in ("patterns", NAME, "resnet50")]
        sections.append(_long(models, repository.get(NAME), Path(name)))
    return "\n\n".join(sections)


def _noise(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def _label(client: Client, image: Any) -> int:
    """What it is taken for."""
    return client.classify(image, model=NAME)[0].top.index


def _quick(models: Path, stored: StoredModel) -> str:
    """The table of a model: a server process for each technique."""
    manifest = stored.manifest
    layer = manifest.layers[len(manifest.layers) // 2].name
    image = _noise(manifest.input_size)
    lines = [
        f"### {manifest.name}, {manifest.input_size} px: quick calls",
        "",
        f"| call | MiB, one lane | MiB, {LANES} lanes | calls a CPU second | CPU time, classify = 1 |",
        "|---|---|---|---|---|",
    ]
    unit = 0.0
    for name, technique in QUICK.items():
        alone, together, seconds = _measure(
            models, manifest.name, lambda client, ask=technique: ask(client, manifest.name, image, layer)
        )
        unit = unit or seconds
        lines.append(f"| {name} | {alone:.0f} | {together:.0f} | {1 / seconds:.3g} | {seconds / unit:.3g} |")
    return "\n".join(lines)


def _measure(models: Path, model: str, ask: Callable[[Client], object]) -> tuple[float, float, float]:
    """Peaks of a server with one call and with one in each lane, and CPU seconds a call."""
    with _server(models, model) as (process, address), Client(address, tls=False, timeout=120) as client:
        ask(client)  # Opens the session.
        began, until, calls = _cpu(process), time.monotonic() + SECONDS, 0
        while time.monotonic() < until or calls < 2:
            ask(client)
            calls += 1
        seconds, alone = (_cpu(process) - began) / calls, _peak(process)
        with ThreadPoolExecutor(LANES) as pool:
            list(pool.map(lambda _: ask(client), range(LANES)))
        return alone, _peak(process), seconds


@contextmanager
def _server(models: Path, model: str) -> Iterator[tuple[psutil.Process, str]]:
    settings = {"LISTEN": "127.0.0.1:0", "REDIS": "", "MODELS": models, "LANES": LANES, "THREADS": 1}
    settings |= {"WARM": f'["{model}"]', "LOG_LEVEL": "WARNING", "MAX_WAIT": 100}
    environment = os.environ | {f"CONVLENS_{name}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "convlens_server"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ready = re.search(r"ready on (\S+)", server.stdout.readline())
            if ready is None:
                raise RuntimeError("convlens-server did not start")
            yield psutil.Process(server.pid), ready[1]
        finally:
            server.terminate()


def _long(models: Path, stored: StoredModel, folder: Path) -> str:
    """The table of jobs: a worker for each technique."""
    lines = [
        f"### {NAME}, {SIDE} px: jobs",
        "",
        "A worker is its supervisor and its engine. A pass: one picture, there and back, in PyTorch.",
        "",
        "| job | MiB of a worker | CPU time of a step, pass = 1 |",
        "|---|---|---|",
    ]
    unit = _pass(stored)
    for number, (name, submit) in enumerate(LONG.items()):
        plan = Plan(listen="127.0.0.1:0", data=folder / f"job-{number}", models=models, device="cpu")
        with running(plan) as machine, Client(machine.address, tls=False) as client:
            peak, seconds = _job(client, submit)
        lines.append(f"| {name} | {peak:.0f} | {seconds / unit:.3g} |")
    return "\n".join(lines)


def _job(client: Client, submit: Long) -> tuple[float, float]:
    """The worker's peak, and the CPU seconds of a step."""
    children = psutil.Process().children(recursive=True)
    worker = [child for child in children if any("convlens_workers" in word for word in child.cmdline())]
    (engine,) = (child for child in worker if "convlens_workers.device_process" in child.cmdline())
    spent = []
    for count in STEPS:
        began = _cpu(engine)
        done = submit(client, _noise(SIDE), count).wait(timeout=300)
        if done.state != "SUCCEEDED":
            raise RuntimeError(f"{done.technique}: {done.state}")
        spent.append(_cpu(engine) - began)
    return sum(map(_peak, worker)), (spent[-1] - spent[-2]) / (STEPS[-1] - STEPS[-2])


def _pass(stored: StoredModel) -> float:
    """CPU seconds of one pass forward and back."""
    torch.set_num_threads(1)
    network = load_network(stored)
    picture = torch.rand(1, 3, SIDE, SIDE, requires_grad=True)
    seconds = []
    for _ in range(20):
        began = time.process_time()
        torch.autograd.grad(network(picture)[0, 0], picture)
        seconds.append(time.process_time() - began)
    return float(np.median(seconds))


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _peak(process: psutil.Process) -> float:
    """Largest resident size so far, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
