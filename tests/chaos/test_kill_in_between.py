"""Killed where it hurts: between commit and apply, in a rollback, in a checkpoint's write, before the first one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from esper.events.runs import BoundaryReached, CheckpointRetired
from tests.support.logs.runlog import events, history
from tests.support.trainers import Zygote, assert_whole, chunks, committed, manifests, needed_chunks

pytestmark = pytest.mark.chaos
Fault = dict[str, Any]
APPEND = "append"
NAN = (75, 265)  # while the first seed blends, and while a later one does


def before(at: str, holding: str | None = None, nth: int = 1) -> Fault:
    return {"at": at, "when": "before", "nth": nth, "holding": holding}


def after(at: str, holding: str | None = None, nth: int = 1) -> Fault:
    return {"at": at, "when": "after", "nth": nth, "holding": holding}


def killed(zygote: Zygote, home: Path, faults: list[Fault], *more: Any) -> None:
    """A run ``torn`` that is killed at each of ``faults`` in turn, then let to its end."""
    begun = bool(events(home, "torn"))
    for fault in faults:
        arguments = ["resume" if begun else "start", str(home), "torn", *more]
        zygote.start("faults", [[fault], "moons", *arguments], home / "output").struck()
        begun = bool(events(home, "torn"))
        assert_whole(home, "torn")
    trainer = zygote.start("moons", ["resume" if begun else "start", str(home), "torn", *more], home / "output")
    assert trainer.exit_status() == 0, trainer.output
    assert_whole(home, "torn")


BEGINNING = {
    "while the first checkpoint is written": [before("esper.artifacts.files:os.replace")],
    "when the first checkpoint is on disk": [after("esper.tolaria.checkpoint.store:Checkpoints.write")],
    "before RunStarted is committed": [before(APPEND, "RunStarted"), before(APPEND, "RunStarted")],
    "after RunStarted is committed": [after(APPEND, "RunStarted")],
}


@pytest.mark.parametrize("moment", BEGINNING)
def test_a_run_killed_at_its_beginning_is_begun_or_resumed_under_the_same_name(
    moment: str, zygote: Zygote, whole_history: list[tuple[str, Any]], home: Path
) -> None:
    killed(zygote, home, BEGINNING[moment])
    assert history(home, "torn") == whole_history


STAGES = ("GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILISED", "CULLED")


@pytest.mark.parametrize("when", [before, after])
def test_a_run_killed_around_the_commit_of_each_transition_applies_it_once(
    when: Any, zygote: Zygote, whole_history: list[tuple[str, Any]], home: Path
) -> None:
    killed(zygote, home, [when(APPEND, f"SeedTransitioned {stage}") for stage in STAGES])
    assert history(home, "torn") == whole_history


CHECKPOINT = {
    "half a file": {"at": "esper.artifacts.files:open", "when": "half", "nth": 2},
    "a whole file without its name": before("esper.artifacts.files:os.replace", nth=2),
    "chunk without manifest": after("esper.tolaria.checkpoint.store:Checkpoints._write_chunk", nth=2),
    "files without event": after("esper.tolaria.checkpoint.store:Checkpoints.write", nth=2),
    "event not committed": before(APPEND, "CheckpointCommitted", nth=2),
    "event committed": after(APPEND, "CheckpointCommitted", nth=2),
    "not retired yet": before(APPEND, "CheckpointRetired"),
    "retired, files there": after(APPEND, "CheckpointRetired"),
    "retired, half the files there": after("esper.artifacts.files:FileStore.delete"),
}


def test_a_run_killed_while_checkpoints_are_written_and_retired_ends_as_if_it_never_was(
    zygote: Zygote, whole_history: list[tuple[str, Any]], home: Path
) -> None:
    # The run has begun before: the second file, chunk or event is not its first checkpoint's.
    killed(zygote, home, [after(APPEND, "RunStarted"), *CHECKPOINT.values()])
    assert history(home, "torn") == whole_history


@pytest.mark.parametrize("moment", ["retired, files there", "retired, half the files there"])
def test_files_of_a_checkpoint_retired_just_before_a_kill_are_deleted_by_the_resume(
    moment: str, zygote: Zygote, home: Path
) -> None:
    killed(zygote, home, [CHECKPOINT[moment]])
    retired = {e.content.manifest for e in events(home, "torn") if isinstance(e.content, CheckpointRetired)}
    assert retired
    never_committed = manifests(home, "torn") - committed(home, "torn")  # the kill may leave one, just written
    assert not never_committed & retired
    if not never_committed:
        assert chunks(home, "torn") == needed_chunks(home, "torn")


def test_a_run_killed_while_it_replays_replays_again(
    zygote: Zygote, whole_history: list[tuple[str, Any]], home: Path
) -> None:
    late = before(APPEND, "SeedTransitioned FOSSILISED")
    repeat = "esper.tolaria.trainer:Trainer._repeated"
    load = after("esper.tolaria.trainer:Trainer.load")
    killed(zygote, home, [late, after(repeat), after(repeat, nth=5), load, before(APPEND, "RunResumed")])
    assert history(home, "torn") == whole_history


def test_a_checkpoint_taken_while_replaying_leaves_what_follows_it_to_be_replayed(
    zygote: Zygote, whole_history: list[tuple[str, Any]], home: Path
) -> None:
    """The second epoch's checkpoint, at step 120, is late: its event follows the cull of step 130."""
    write = "esper.tolaria.checkpoint.store:Checkpoints.write"
    late = {**before(write, nth=2), "strike": "SLEEP"}
    lives = [
        ("start", [after(APPEND, "SeedTransitioned FOSSILISED")]),
        ("resume", [late, after(APPEND, "SeedTransitioned CULLED")]),
        ("resume", [after(APPEND, "CheckpointCommitted 120")]),
    ]
    for mode, faults in lives:
        zygote.start("faults", [faults, "moons", mode, str(home), "torn"], home / "output").struck()
    last = [event.content for event in events(home, "torn") if isinstance(event.content, BoundaryReached)][-1]
    assert last.step >= 130  # a slow machine may have come further before the checkpoint's event
    killed(zygote, home, [])
    assert history(home, "torn") == whole_history


ROLLBACK = {
    "before it is committed": before(APPEND, "RolledBack"),
    "after it is committed": after(APPEND, "RolledBack"),
    "before it is applied again": before("esper.tolaria.changes:Changes._undo"),
    "half applied": after("esper.tolaria.model.seeds:Seeds.rebuild", nth=2),
    "applied, without a checkpoint": after("esper.tolaria.changes:Changes._undo"),
    "its checkpoint written": after("esper.tolaria.checkpoint.store:Checkpoints.write"),
}


@pytest.fixture(scope="module")
def rolled_back(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Any]]:
    """The history of an uninterrupted run with two rollbacks."""
    home = tmp_path_factory.mktemp("rolled-back")
    trainer = zygote.start("moons", ["start", str(home), "whole", 6, NAN], home / "output")
    assert trainer.exit_status() == 0, trainer.output
    found = history(home, "whole")
    undone = [content for name, content in found if name == "RolledBack"]
    culls = [content for name, content in found if name == "SeedTransitioned" and content["cause"] == "rollback"]
    assert [content["step"] for content in undone] == list(NAN)
    assert culls
    return found


def test_a_run_killed_during_a_rollback_rolls_back_once(
    zygote: Zygote, rolled_back: list[tuple[str, Any]], home: Path
) -> None:
    killed(zygote, home, list(ROLLBACK.values()), 6, NAN)
    assert history(home, "torn") == rolled_back


def test_a_run_killed_far_behind_a_rollback_replays_it(
    zygote: Zygote, rolled_back: list[tuple[str, Any]], home: Path
) -> None:
    """The checkpoint after the rollback is never committed, so the rollback itself is done again."""
    no_checkpoint = before(APPEND, "CheckpointCommitted", nth=3)
    killed(zygote, home, [no_checkpoint, after(APPEND, "BoundaryReached", nth=2)], 6, NAN)
    assert history(home, "torn") == rolled_back
