"""Any number of runs in one home, side by side in several processes and one after another in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.logs.runlog import history
from tests.support.trainers import Progress, Zygote, assert_whole

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


def test_two_runs_side_by_side_in_one_home_do_not_touch_each_other(
    zygote: Zygote, whole_history: list[tuple[str, Any]], home: Path
) -> None:
    def start(mode: str, name: str) -> Any:
        return zygote.start("moons", [mode, str(home), name], home / f"output-{name}")

    survivor, victim = start("start", "one"), start("start", "two")
    progress = Progress(home, "two")
    progress.wait(victim, 30)
    progress.close()
    victim.kill()
    resumed = start("resume", "two")
    for trainer in (survivor, resumed):
        assert trainer.exit_status() == 0, trainer.output
    for name in ("one", "two"):
        assert history(home, name) == whole_history
        assert_whole(home, name)


def test_two_runs_one_after_another_in_one_process_do_not_touch_each_other(
    zygote: Zygote, whole_history: list[tuple[str, Any]], home: Path
) -> None:
    runs = [["start", str(home), "one"], ["start", str(home), "two"]]
    trainer = zygote.start("several", runs, home / "output")
    assert trainer.exit_status() == 0, trainer.output
    assert history(home, "one") == whole_history
    assert history(home, "two") == whole_history
