"""Ctrl-C pauses a run in good order; twice stops it at once; either way resume goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from esper.events.runs import CheckpointCommitted, RunPaused
from tests.support.logs.runlog import events, history
from tests.support.trainers import Progress, Trainer, Zygote, assert_whole

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


def wait_for(trainer: Trainer, words: str) -> None:
    deadline = time.monotonic() + 60
    while words not in trainer.output:
        assert trainer.alive(), trainer.output
        assert time.monotonic() < deadline, trainer.output
        time.sleep(0.01)


@pytest.mark.parametrize("place", [3, 40, 75])
def test_ctrl_c_commits_a_checkpoint_and_a_pause_and_resume_goes_on(
    place: int, zygote: Zygote, whole_history: list[tuple[str, Any]], home: Path
) -> None:
    trainer = zygote.start("moons", ["start", str(home), "torn"], home / "output")
    progress = Progress(home, "torn")
    progress.wait(trainer, place)
    progress.close()
    trainer.signal(signal.SIGINT)
    assert trainer.exit_status() == 0, trainer.output
    found = [event.content for event in events(home, "torn")]
    paused = found[-1]
    assert isinstance(paused, RunPaused)
    assert paused.step in {each.step for each in found if isinstance(each, CheckpointCommitted)}
    trainer = zygote.start("moons", ["resume", str(home), "torn"], home / "output")
    assert trainer.exit_status() == 0, trainer.output
    resumed = events(home, "torn")[len(found)].content
    assert resumed.checkpoint == paused.step  # nothing was run twice
    assert history(home, "torn") == whole_history
    assert_whole(home, "torn")


def test_ctrl_c_twice_stops_at_once_and_resume_goes_on(
    zygote: Zygote, whole_history: list[tuple[str, Any]], home: Path
) -> None:
    trainer = zygote.start("moons", ["start", str(home), "torn", 5, [], [55, 3600]], home / "output")
    wait_for(trainer, "sleeping")
    trainer.signal(signal.SIGINT)
    time.sleep(0.3)
    assert trainer.alive()  # the step is not over
    trainer.signal(signal.SIGINT)
    trainer.wait(30)
    assert "KeyboardInterrupt" in trainer.output
    assert not any(isinstance(event.content, RunPaused) for event in events(home, "torn"))
    trainer = zygote.start("moons", ["resume", str(home), "torn"], home / "output")
    assert trainer.exit_status() == 0, trainer.output
    assert history(home, "torn") == whole_history
    assert_whole(home, "torn")
