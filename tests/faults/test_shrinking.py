"""The storm's script, its replay and its shrinking, on a world with a planted bug in place of processes."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from support.shrinking import shortest
from tests.storm import ACTS, JOB, Event, Outcome, main, read, script


class Planted:
    """A world that loses jobs which are submitted while the network loses replies after a worker froze."""

    def __init__(self) -> None:
        self.ran = 0

    def __call__(self, events: list[Event]) -> Outcome:
        self.ran += 1
        frozen, losing, wrong = False, (0.0, 0.0), []
        for event in events:
            frozen |= event.act == "freeze worker"
            if event.act == "lose":
                losing = (event.at, event.at + event.seconds)
            if event.act == JOB and frozen and losing[0] <= event.at < losing[1]:
                wrong.append(f"{event} is lost")
        return Outcome(wrong, [])


@pytest.fixture
def failing() -> int:
    """A seed whose storm meets the bug."""
    return next(seed for seed in range(100) if Planted()(script(seed, 600)).wrong)


def test_a_failure_is_shrunk_to_its_shortest_script_which_can_be_replayed(
    failing: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = Planted()
    assert main(["--seed", str(failing), "--minutes", "10", "--out", str(tmp_path)], planted) == 1
    said = capsys.readouterr().out
    assert "WRONG Event" in said
    found = re.search(r"3 of (\d+) events fail as well: --replay (\S+)", said)
    assert found is not None, said
    assert int(found[1]) > 200
    assert planted.ran < 400
    short = read(Path(found[2]))
    assert sorted(event.act for event in short) == ["freeze worker", JOB, "lose"]
    assert main(["--replay", found[2], "--out", str(tmp_path)], Planted()) == 1
    assert main(["--seed", "0", "--minutes", "0.01"], Planted()) == 0


def test_a_seed_decides_the_script_and_has_all_that_can_break() -> None:
    events = script(3, 600)
    assert events == script(3, 600) != script(4, 600)
    assert {event.act for event in events} == {JOB, *ACTS}
    assert len({event.number for event in events if event.act == JOB}) == 300


@pytest.mark.parametrize("seed", range(5))
def test_the_shortest_list_still_fails_and_no_item_can_be_left_out(seed: int) -> None:
    rng = random.Random(seed)
    needed = set(rng.sample(range(60), 4))
    found = shortest(range(60), lambda items: needed <= set(items))
    assert found == sorted(needed)
