"""A cull from BLENDING or HOLDING returns the host to when blending began, and only the host; also across a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.test_kill_in_between import APPEND, after, before
from tests.support.logs.runlog import events, history
from tests.support.trainers import Zygote, assert_whole

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
RESTORE = "esper.tolaria.changes:Changes._restore_host"


def restorations(output: Path) -> list[dict[str, bool]]:
    lines = output.read_text().splitlines()
    return [json.loads(line.removeprefix("restored ")) for line in lines if line.startswith("restored ")]


@pytest.mark.parametrize(
    ("stage", "how"), [("BLENDING", "command"), ("BLENDING", "alarm"), ("HOLDING", "command"), ("HOLDING", "audit")]
)
def test_a_cull_out_of_the_host_restores_it_and_lets_all_else_go_on(
    stage: str, how: str, zygote: Zygote, new_home: Callable[[str], Path]
) -> None:
    home = new_home("whole")
    trainer = zygote.start("culls", [stage, how, "start", str(home), "run"], home / "output")
    assert trainer.exit_status() == 0, trainer.output
    (cull,) = culls(home, stage)
    assert cull["gate"] == {"command": None, "alarm": "governor", "audit": "audit"}[how]
    (told,) = restorations(home / "output")
    assert all(told.values()), told

    torn = new_home("torn")
    moment = f"{'CommandAccepted' if how == 'command' else 'SeedTransitioned CULLED'}"
    # Seeds that fail in TRAINING were culled before: two of them, at steps 130 and 190.
    nth = 1 if how == "command" else 3
    faults = [before(APPEND, moment, nth), after(APPEND, "SeedTransitioned CULLED"), before(RESTORE), after(RESTORE)]
    for fault in faults:
        mode = "resume" if events(torn, "run") else "start"
        zygote.start("faults", [[fault], "culls", stage, how, mode, str(torn), "run"], torn / "output").struck()
    trainer = zygote.start("culls", [stage, how, "resume", str(torn), "run"], torn / "output")
    assert trainer.exit_status() == 0, trainer.output
    (told,) = restorations(torn / "output")
    assert all(told.values()), told
    assert history(torn, "run") == history(home, "run")
    assert_whole(torn, "run")
    answers = [type(event.content).__name__ for event in events(torn, "run")]
    assert answers.count("CommandAccepted") == (how == "command")


def culls(home: Path, stage: str) -> list[dict[str, Any]]:
    moves = [content for name, content in history(home, "run") if name == "SeedTransitioned"]
    return [move for move in moves if (move["from_stage"], move["to_stage"]) == (stage, "CULLED")]
