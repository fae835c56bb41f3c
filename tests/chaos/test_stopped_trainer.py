"""SIGSTOP, resume elsewhere, SIGCONT: the trainer that was stopped writes no event and deletes no file more."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.test_kill_in_between import APPEND, before
from tests.support.logs.runlog import history
from tests.support.trainers import Progress, Trainer, Zygote, assert_whole, raw_ids

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
MOMENTS = {
    "before it commits a boundary": before(APPEND, "BoundaryReached", nth=12),
    "before it commits a transition": before(APPEND, "SeedTransitioned BLENDING"),
    "before it retires a checkpoint": before(APPEND, "CheckpointRetired"),
    "while it writes a checkpoint": before("esper.artifacts.files:os.replace", nth=6),
    "in the middle of a step": before("esper.tolaria.model.seeds:Seeds.learn_isolated", nth=50),
}


def stopped(trainer: Trainer) -> None:
    """Wait until it has stopped itself."""
    deadline = time.monotonic() + 60
    while Path(f"/proc/{trainer.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, trainer.output
        time.sleep(0.01)


def files(home: Path) -> set[str]:
    return {str(path) for path in (home / "artifacts").rglob("*") if not path.name.startswith(".")}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_trainer_stopped_and_overtaken_leaves_the_run_alone(
    moment: str, zygote: Zygote, whole_history: list[tuple[str, Any]], home: Path
) -> None:
    fault = {**MOMENTS[moment], "strike": "SIGSTOP"}
    old = zygote.start("faults", [[fault], "moons", "start", str(home), "torn"], home / "old")
    try:
        stopped(old)
        trainer = zygote.start("moons", ["resume", str(home), "torn"], home / "output")
        assert trainer.exit_status() == 0, trainer.output
        ids, left = raw_ids(home, "torn"), files(home)
    finally:
        old.signal(signal.SIGCONT)
    assert old.exit_status() == 1
    assert "epoch 2" in old.output
    assert raw_ids(home, "torn") == ids
    assert files(home) >= left
    assert history(home, "torn") == whole_history
    assert_whole(home, "torn")


def test_the_command_of_an_overtaken_trainer_says_so_in_one_line(zygote: Zygote, home: Path) -> None:
    words = ["train", "--task", "digits", "--steps", 2000, "--run-id", "run", "--json", "--home", str(home)]
    old = zygote.start("command", words, home / "old")
    progress = Progress(home, "run")
    progress.wait(old, 10)
    progress.close()
    trainer = zygote.start("command", ["resume", "run", "--json", "--home", str(home)], home / "output")
    assert old.exit_status() == 1
    trainer.kill()
    said = [line for line in old.output.splitlines() if line.startswith("esper: ")]
    assert "epoch 2" in said[-1]
    assert "Traceback" not in old.output
