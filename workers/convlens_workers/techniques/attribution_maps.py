"""Attributions that take thousands of passes: the code of the quick calls, batch by batch."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Final

import numpy as np
import torch
from torch import Tensor

from convlens.v1 import attribution_pb2, job_pb2
from convlens_models.attributions.perturbation import Attributed, Totals
from convlens_models.attributions.targets import Target, resolve_all
from convlens_models.backend import F32, F64
from convlens_workers.jobs.techniques.attribution_maps import Asked, asked
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts.attacks import stacked
from convlens_workers.techniques.parts.loop import Losses, optimise
from convlens_workers.techniques.parts.torch_backend import TorchBackend

Params = job_pb2.AttributionMaps
TOTAL: Final = "total."
"""Before the names of totals in the state."""
COPIES, DONE = "copies.rng", "copies.batches"
"""In the state: the generator of the copies, as JSON, and the batches that have gone through."""


def attribution_maps(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """Sums over perturbed copies, as `convlens_models.attributions` has them.

    A step is a batch of copies of one image. The totals and the generator of the copies are the state, so
    that a job that goes on draws each of them once.

    Returns:
        "<position>.<technique>" (N, 1, H, W) or (N, 3, H, W), in the order asked. Report "attribution" has
        the targets' values and classes.

    Raises:
        InvalidArgument: a target outside its layer's map.
    """
    run = Run(task)
    count = len(run.images)
    stages = [Sums(run, position, image) for position in range(len(run.asked)) for image in range(count)]
    held = yield from optimise(stages, state, task.seed, task.device)
    results: dict[str, Tensor | attribution_pb2.AttributeResult] = {}
    report = attribution_pb2.AttributeResult()
    for position, item in enumerate(run.asked):
        maps = np.stack([held[_map(position, image)].cpu().numpy() for image in range(count)])
        target = run.targets[position]
        found = item.kind.finish(run.backend, run.images, target, maps, item.params)
        results[f"{position}.{item.name}"] = torch.from_numpy(found.attribution)
        report.targets.append(_told(found, target))
    return {**results, "attribution": report}


class Run:
    """What all stages share: the network, the images, and what is asked of them."""

    def __init__(self, task: Task[Params]) -> None:
        stored = task.host.networks.repository.get(task.manifest.name, task.manifest.version)
        self.backend = TorchBackend(task.network, stored, task.device)
        self.images: F32 = stacked(task, "images").cpu().numpy()
        self.asked: list[Asked] = asked(task.params, task.manifest)
        field = "attribution_maps.attributions"
        self.targets = resolve_all(self.backend, self.images, task.params.attributions, field)


class Sums:
    """The batches of copies of one image for one attribution; a stage of the loop."""

    def __init__(self, run: Run, position: int, image: int) -> None:
        item, pixels = run.asked[position], run.images[image]
        self._kind, self._params, self._name = item.kind, item.params, _map(position, image)
        self._one = item.kind(run.backend, pixels, run.targets[position].of(image), item.params)
        self._parts = item.kind.parts(item.params, (pixels.shape[1], pixels.shape[2]))
        self.steps = len(self._parts)

    def start(self, last: State, _: torch.Generator) -> State:
        """The maps that are done, and no copy of this one."""
        rng = self._kind.generator(self._params)
        return {**_maps(last), **_state(self._one.empty()), COPIES: _written(rng), DONE: torch.tensor(0)}

    def advance(self, held: State, _: torch.Generator) -> tuple[State, Losses]:
        """The next batch; after the last one, the map in place of the totals."""
        done, rng = int(held[DONE]), _read(held[COPIES])
        totals = self._one.more(_totals(held), self._parts[done], rng)
        if done + 1 == self.steps:
            return {**_maps(held), self._name: torch.from_numpy(self._one.map(totals))}, {}
        now = {**_state(totals), COPIES: _written(rng), DONE: torch.tensor(done + 1)}
        return {**_maps(held), **now}, {}

    def picture(self, held: State) -> Tensor:
        """The map so far, from its least value in black to its largest in white, (1, 3, H, W)."""
        with np.errstate(invalid="ignore", divide="ignore"):  # Where nothing covers a pixel yet.
            found = held[self._name].cpu().numpy() if self._name in held else self._one.map(_totals(held))
        return _grey(np.nan_to_num(found))


def _grey(found: F64) -> Tensor:
    flat = np.abs(found).max(axis=0) if found.ndim == 3 else found
    shades = (flat - flat.min()) / max(np.ptp(flat), np.finfo(np.float32).tiny)
    return torch.from_numpy(shades.astype(np.float32)).expand(1, 3, -1, -1)


def _told(found: Attributed, target: Target) -> attribution_pb2.AttributedTarget:
    residuals = [] if found.residuals is None else found.residuals.tolist()
    return attribution_pb2.AttributedTarget(
        values=found.values.tolist(), class_indices=target.classes, completeness_residuals=residuals
    )


def _map(position: int, image: int) -> str:
    return f"map.{position}.{image}"


def _maps(held: State) -> State:
    return {name: value for name, value in held.items() if name.startswith("map.")}


def _state(totals: Totals) -> State:
    return {TOTAL + name: torch.from_numpy(value) for name, value in totals.items()}


def _totals(held: State) -> Totals:
    found = {name: value for name, value in held.items() if name.startswith(TOTAL)}
    return {name.removeprefix(TOTAL): value.cpu().numpy() for name, value in found.items()}


def _written(rng: np.random.Generator) -> Tensor:
    """The state of a generator, whose numbers are longer than any of torch's."""
    return torch.tensor(list(json.dumps(rng.bit_generator.state).encode()), dtype=torch.uint8)


def _read(state: Tensor) -> np.random.Generator:
    rng = np.random.default_rng()
    rng.bit_generator.state = json.loads(bytes(state.cpu().tolist()))
    return rng
