"""Any number of runs in one home, side by side in several processes and one after another in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chaos.trainers import Progress, Zygote, assert_whole
from tests.runlog import history

pytestmark = pytest.mark.chaos


def test_two_runs_side_by_side_in_one_home_do_not_touch_each_other(
    zygote: Zygote, whole_history: list[tuple[str, Any]], tmp_path: Path
) -> None:
    def start(mode: str, name: str) -> Any:
        return zygote.start("moons", [mode, str(tmp_path), name], tmp_path / f"output-{name}")

    survivor, victim = start("start", "one"), start("start", "two")
    progress = Progress(tmp_path, "two")
    progress.wait(victim, 30)
    progress.close()
    victim.kill()
    resumed = start("resume", "two")
    for trainer in (survivor, resumed):
        assert trainer.exit_status() == 0, trainer.output
    for name in ("one", "two"):
        assert history(tmp_path, name) == whole_history
        assert_whole(tmp_path, name)


def test_two_runs_one_after_another_in_one_process_do_not_touch_each_other(
    zygote: Zygote, whole_history: list[tuple[str, Any]], tmp_path: Path
) -> None:
    runs = [["start", str(tmp_path), "one"], ["start", str(tmp_path), "two"]]
    trainer = zygote.start("several", runs, tmp_path / "output")
    assert trainer.exit_status() == 0, trainer.output
    assert history(tmp_path, "one") == whole_history
    assert history(tmp_path, "two") == whole_history
