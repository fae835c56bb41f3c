"""Losses that are not finite: a rollback and on, or the end of the run when that does not help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from esper.events.runs import RunFailed
from tests.support.logs.runlog import events, history
from tests.support.trainers import Progress, Zygote, assert_whole

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


@pytest.fixture(scope="module")
def with_nan(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Any]]:
    home = tmp_path_factory.mktemp("nan")
    trainer = zygote.start("moons", ["start", str(home), "whole", 5, [165]], home / "output")
    assert trainer.exit_status() == 0, trainer.output
    return history(home, "whole")


def test_a_loss_that_is_not_finite_rolls_back_and_training_goes_on(
    with_nan: list[tuple[str, Any]], whole_history: list[tuple[str, Any]]
) -> None:
    names = [name for name, _ in with_nan]
    at = names.index("RolledBack")
    assert with_nan[:at] == whole_history[:at]
    _, undone = with_nan[at]
    assert undone["step"] == 165
    assert undone["to_step"] == 120  # the end of the second epoch
    assert told(with_nan, "step") == list(range(10, 301, 10))  # no step number is used twice
    assert names[-1] == "RunCompleted"
    for what in ("data", "learning_rate"):  # go on as if there had been no rollback
        assert told(with_nan, what) == told(whole_history, what)


def told(found: list[tuple[str, Any]], what: str) -> list[Any]:
    return [content[what] for name, content in found if name == "BoundaryReached"]


@pytest.mark.parametrize("place", [49, 53, 57, 60])
def test_kills_around_a_rollback_do_not_change_the_history(
    place: int, zygote: Zygote, with_nan: list[tuple[str, Any]], home: Path
) -> None:
    progress = Progress(home, "torn")
    for mode, sequence in (("start", place), ("resume", place + 4)):
        trainer = zygote.start("moons", [mode, str(home), "torn", 5, [165]], home / "output")
        progress.wait(trainer, sequence)
        trainer.kill()
    progress.close()
    trainer = zygote.start("moons", ["resume", str(home), "torn", 5, [165]], home / "output")
    assert trainer.exit_status() == 0, trainer.output
    assert history(home, "torn") == with_nan
    assert_whole(home, "torn")


@pytest.mark.parametrize(("nan", "step"), [([1], 1), ([20, 90, 160], 160)], ids=["first batch", "three in 200 steps"])
def test_a_run_that_rolling_back_cannot_save_fails(nan: list[int], step: int, zygote: Zygote, home: Path) -> None:
    trainer = zygote.start("moons", ["start", str(home), "run", 5, nan], home / "output")
    assert trainer.exit_status() == 1
    assert "not finite" in trainer.output
    last = events(home, "run")[-1].content
    assert isinstance(last, RunFailed)
    assert last.step == step
    trainer = zygote.start("moons", ["resume", str(home), "run"], home / "output")
    assert trainer.exit_status() == 1
    assert "start a new one" in trainer.output


def test_three_losses_that_are_not_finite_in_more_than_200_steps_are_survived(zygote: Zygote, home: Path) -> None:
    trainer = zygote.start("moons", ["start", str(home), "run", 5, [20, 90, 290]], home / "output")
    assert trainer.exit_status() == 0, trainer.output
    assert [name for name, _ in history(home, "run")].count("RolledBack") == 3
