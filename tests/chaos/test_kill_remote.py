"""Trainers killed while a policy elsewhere decides: what it proposed counts, once, whichever trainer hears it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.events.runs import DecisionMade, DecisionRejected, RolledBack, SeedTransitioned
from esper.tamiyo.proof.verify import verify
from tests.support.logs.runlog import events, history, log_url
from tests.support.runs.deciding import Worker
from tests.support.trainers import Progress, Zygote, assert_whole

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
REMOTE = {"ESPER_DECISION__WHERE": "remote", "ESPER_DECISION__WAIT": "60"}
EPOCHS, NAN = 3, (95,)
FAULTS = [
    {"at": "append", "when": "after", "holding": "BoundaryReached"},
    {"at": "append", "when": "before", "holding": "DecisionMade"},
    {"at": "append", "when": "before", "holding": "DecisionRejected"},
    {"at": "append", "when": "after", "holding": "SeedTransitioned GERMINATED"},
    {"at": "append", "when": "after", "holding": "RolledBack"},
    {"at": "append", "when": "after", "holding": "DecisionMade", "nth": 2},
]


def of(home: Path, run_id: str, *kinds: type) -> list[Any]:
    return [event.content for event in events(home, run_id) if isinstance(event.content, kinds)]


def test_a_remote_run_killed_around_its_decisions_ends_as_if_it_never_was(
    zygote: Zygote, home: Path, new_home: Callable[[str], Path]
) -> None:
    def trainer(home: Path, mode: str, run_id: str, *fault: Any) -> Any:
        program, before = ("faults", [list(fault), "moons"]) if fault else ("moons", [])
        arguments = [*before, mode, str(home), run_id, EPOCHS, NAN]
        return zygote.start(program, arguments, home / "output", **REMOTE)

    quiet = new_home("quiet")
    with Worker(log_url(quiet)):
        whole = trainer(quiet, "start", "whole")
        assert whole.exit_status() == 0, whole.output
    with Worker(log_url(home)):
        mode = "start"
        for fault in FAULTS:
            trainer(home, mode, "torn", fault).struck()
            assert_whole(home, "torn")
            mode = "resume"
        last = trainer(home, mode, "torn")
        Progress(home, "torn").wait(last, len(events(home, "torn")) + 5)
        last.kill()
        last = trainer(home, mode, "torn")
        assert last.exit_status() == 0, last.output
    assert history(home, "torn") == history(quiet, "whole")
    answered = [event for event in events(home, "torn") if isinstance(event.content, DecisionMade | DecisionRejected)]
    assert len({event.envelope.causes for event in answered}) == len(answered) > 10
    assert {each.reason for each in of(home, "torn", DecisionRejected)} == {"stale"}
    assert of(home, "torn", RolledBack)
    assert of(home, "torn", SeedTransitioned)
    assert verify("torn", events(home, "torn")).findings == ()
