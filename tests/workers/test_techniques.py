"""What holds for every long technique; one row of the table each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from google.protobuf.message import Message
from support import techniques
from support.long_cases import CASES, ELSEWHERE, FILE, Case
from support.techniques import make_task
from torch import Tensor

from convlens.v1 import job_pb2
from convlens_workers.messages import Checkpointed, Progress, Stop
from convlens_workers.step_runner import StepRunner
from convlens_workers.techniques import TECHNIQUES, begin
from convlens_workers.techniques.base import Results, State, Step, Task


@pytest.fixture(params=CASES, ids=lambda case: case.technique)
def case(request: pytest.FixtureRequest, one_thread: None) -> Case:
    return request.param


def run(case: Case, task: Task, state: State | None = None) -> tuple[list[Step], Results]:
    return techniques.run(begin(case.technique, task, state))


def equal(first: Results, second: Results) -> bool:
    def same(one: Tensor | Message, other: Tensor | Message) -> bool:
        return torch.equal(one, other) if isinstance(one, Tensor) else one == other

    return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)


def test_every_technique_has_its_row() -> None:
    assert {case.technique for case in CASES} | ELSEWHERE == TECHNIQUES.keys()
    in_the_contract = job_pb2.SubmitJobRequest.DESCRIPTOR.oneofs_by_name["technique"].fields
    assert {field.name for field in in_the_contract} == TECHNIQUES.keys()


def test_it_counts_its_steps_and_gives_finite_tensors(case: Case, tiny_models: Path) -> None:
    steps, results = run(case, make_task(case, tiny_models))
    artifacts = {name: value for name, value in results.items() if isinstance(value, Tensor)}
    minimising = {"descent"} if "loss" in steps[0].losses else set()
    assert results.keys() - artifacts.keys() == ({case.report} if case.report else set()) | minimising
    assert [step.number for step in steps] == list(range(1, steps[0].total + 1))
    assert all(value.isfinite() for step in steps for value in step.losses.values())
    shapes = {
        name: FILE if name.startswith("zoom.") else tuple(value.shape) for name, value in artifacts.items()
    }
    assert shapes == case.artifacts
    assert all(value.isfinite().all() for value in artifacts.values())


def test_the_seed_decides(case: Case, tiny_models: Path) -> None:
    first, same, other = (run(case, make_task(case, tiny_models, seed))[1] for seed in (0, 0, 1 << 40))
    assert equal(first, same)
    assert equal(first, other) == (not case.seeded)


def test_resumed_after_any_step_it_ends_in_the_same_bytes(case: Case, tiny_models: Path) -> None:
    task = make_task(case, tiny_models)
    steps, whole = run(case, task)
    for step in steps:
        rest, resumed = run(case, task, {name: value.clone() for name, value in step.state.items()})
        assert [later.number for later in rest] == [later.number for later in steps[step.number :]]
        assert equal(resumed, whole)


def test_it_stops_when_told_to_and_goes_on_from_what_was_saved(case: Case, tiny_models: Path) -> None:
    task, saved = make_task(case, tiny_models), []
    events: list[Progress | Checkpointed] = []

    def save(state: State) -> str:
        saved.append({name: value.clone() for name, value in state.items()})
        return "digest"

    technique = TECHNIQUES[case.technique](task, None)
    assert StepRunner(events.append, lambda: Stop(save=True), save, 100).run(technique) is None
    assert events == [Checkpointed("digest")]
    _, whole = run(case, task)
    _, resumed = run(case, task, saved[0])
    assert equal(resumed, whole)
