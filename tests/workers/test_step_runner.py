"""The one loop that draws steps from techniques, with a technique that counts."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import suppress
from io import BytesIO

import pytest
import torch
from PIL import Image
from torch import Tensor

from convlens.errors import InvalidArgument
from convlens_workers.messages import Checkpointed, Progress, Stop
from convlens_workers.step_runner import Pace, StepRunner, thumbnail
from convlens_workers.techniques.base import State, Step


class Counting:
    """Ten steps; remembers whether it was closed."""

    closed = False

    def steps(self) -> Generator[Step, None, dict[str, Tensor]]:
        try:
            for number in range(1, 11):
                count = torch.tensor(number)
                yield Step(number, 10, {"loss": count / 10}, torch.zeros(1, 3, 8, 8), {"count": count})
        except GeneratorExit:
            self.closed = True
            raise
        return {"count": torch.tensor(10)}


class Recorded:
    """What a step runner sends, and a stop at a step of choice."""

    def __init__(self, stop: Stop | None = None, at: int = 0, *, broken: bool = False) -> None:
        self.events: list[Progress | Checkpointed] = []
        self.saved: list[int] = []
        self._stop, self._at, self._broken, self._looked = stop, at, broken, 0

    def runner(self, checkpoint_interval: float = 100.0) -> StepRunner:
        return StepRunner(self.events.append, self._stop_requested, self._save, checkpoint_interval)

    def _stop_requested(self) -> Stop | None:
        self._looked += 1
        return self._stop if self._looked == self._at else None

    def _save(self, state: State) -> str | None:
        self.saved.append(int(state["count"]))
        return None if self._broken else f"digest {int(state['count'])}"


def test_results_come_after_a_last_word_with_a_preview() -> None:
    recorded = Recorded()
    assert recorded.runner().run(Counting().steps()) == {"count": torch.tensor(10)}
    assert [
        (event.step, bool(event.preview)) for event in recorded.events if isinstance(event, Progress)
    ] == [
        (1, True),
        (10, True),
    ]
    assert recorded.events[-1].losses == {"loss": 1.0}
    assert recorded.saved == []


@pytest.mark.parametrize(("save", "saved"), [(True, [4]), (False, [])])
def test_a_stop_ends_after_this_iteration(save: bool, saved: list[int]) -> None:
    recorded, counting = Recorded(Stop(save=save), at=4), Counting()
    assert recorded.runner().run(counting.steps()) is None
    assert counting.closed
    assert recorded.saved == saved
    assert [event for event in recorded.events if isinstance(event, Checkpointed)] == [
        Checkpointed(f"digest {step}") for step in saved
    ]


def test_checkpoints_follow_the_clock() -> None:
    recorded = Recorded()
    recorded.runner(checkpoint_interval=1e-9).run(Counting().steps())
    assert recorded.saved == list(range(1, 11))


def test_a_checkpoint_that_fails_does_not_stop_the_job() -> None:
    recorded = Recorded(broken=True)
    assert recorded.runner(checkpoint_interval=1e-9).run(Counting().steps()) is not None
    assert not any(isinstance(event, Checkpointed) for event in recorded.events)


def kept_by(
    recorded: Recorded, steps: Generator[Step, None, dict[str, Tensor]], save_every: int = 0
) -> list[str]:
    """Names of the pictures that a technique leaves behind, one that makes them step by step."""
    names: list[str] = []
    runner = recorded.runner()
    runner.keep, runner.save_every = lambda name, _: names.append(name), save_every
    with suppress(ArithmeticError):
        runner.run(steps)
    return names


def test_the_picture_is_kept_every_so_many_steps_and_the_last_state_for_more() -> None:
    recorded = Recorded()
    assert kept_by(recorded, Counting().steps(), 4) == ["step.000004", "step.000008"]
    assert recorded.saved == [10]


@pytest.mark.parametrize(("show", "names"), [(True, ["so_far"]), (False, [])])
def test_a_stop_keeps_the_picture_so_far_where_it_is_the_end(show: bool, names: list[str]) -> None:
    recorded = Recorded(Stop(save=True, show=show), at=4)
    assert kept_by(recorded, Counting().steps()) == names
    assert recorded.saved == [4]


def test_a_failure_keeps_what_there_was_before_it() -> None:
    def failing() -> Generator[Step, None, dict[str, Tensor]]:
        for step in Counting().steps():
            yield step
            if step.number == 3:
                raise ArithmeticError
        return {}

    recorded = Recorded()
    assert kept_by(recorded, failing()) == ["so_far"]
    assert recorded.saved == [3]


def test_so_many_pictures_and_no_more() -> None:
    first = Step(1, 130, {}, torch.zeros(1, 3, 8, 8), {})
    with pytest.raises(InvalidArgument, match=r"save_every = 2: must be at least 3: there are 130 steps"):
        kept_by(Recorded(), (step for step in [first]), 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "expected"), [((512, 1024), (256, 128)), ((40, 30), (30, 40)), ((2, 4096), (256, 1))]
)
def test_thumbnails_fit(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = Image.open(BytesIO(thumbnail(torch.rand(1, 3, *size))))
    assert (picture.format, picture.size) == ("JPEG", expected)


class Hurrying:
    """As many steps as fit into two and a half seconds, of pictures that do not compress."""

    def steps(self) -> Generator[Step, None, dict[str, Tensor]]:
        until, number = time.monotonic() + 2.5, 0
        noise = torch.rand(1, 3, 2048, 2048, generator=torch.Generator().manual_seed(0))
        while time.monotonic() < until:
            number += 1
            yield Step(number, 0, {}, noise, {})
            time.sleep(0.01)
        return {}


def test_previews_come_at_most_once_a_second_and_are_small() -> None:
    recorded = Recorded()
    recorded.runner().run(Hurrying().steps())
    previews = [event.preview for event in recorded.events if isinstance(event, Progress) and event.preview]
    assert 3 <= len(previews) <= 4  # At 0, 1 and 2 s, and the last word.
    assert all(len(preview) <= 1 << 20 for preview in previews)


def test_what_remains_follows_from_the_pace_of_the_steps_and_from_what_each_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four steps of cost 1, then two of cost 8; after the first they take 3 s for a cost of 1."""
    clock = [100.0]
    monkeypatch.setattr("convlens_workers.step_runner.time.monotonic", lambda: clock[0])
    costs = [0.0, 1, 2, 3, 4, 12, 20]
    pace = Pace(lambda step: costs[step], 1)
    none = torch.zeros(1, 3, 8, 8)
    remaining = []
    for step in range(1, 7):
        clock[0] = 100 + 3 * (costs[step] - costs[1])
        remaining.append(pace.remaining(Step(step, 6, {}, none, {})))
    assert remaining == [None, 54, 51, 48, 24, 0]
