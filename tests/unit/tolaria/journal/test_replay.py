"""What the log holds of the steps after a checkpoint, and how they are compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.errors import DataMismatch, ReplayDivergence
from esper.events.runs import BoundaryReached, RolledBack, RunResumed, SeedTransitioned
from esper.tolaria.journal.replay import Replay
from esper.tolaria.model.digest import StateDigest, digest_tree
from tests.support.runs.histories import ENVIRONMENT, History


def state(value: float = 0.0) -> StateDigest:
    return digest_tree({"model": {"a": torch.zeros(2), "b": torch.tensor([value])}})


def boundary(history: History, step: int, digest: StateDigest | None = None) -> BoundaryReached:
    digest = digest or state()
    event = history.boundary(step)
    content = replace(event.content, digest=digest.digest, tensors=digest.tensors)
    history.events[-1] = replace(event, content=content)
    return content


def test_a_step_holds_its_boundary_and_its_transitions_in_order() -> None:
    history = History()
    first = boundary(history, 10)
    history.grown("a", 10, "TRAINING")
    boundary(history, 20)
    replay = Replay(history.events, 0)
    assert replay.last == 20
    assert replay.covers(20)
    assert not replay.covers(21)
    logged = replay.at(10)
    assert logged is not None
    arrival, born, moved = logged.contents
    assert arrival is logged.boundary is first
    assert isinstance(born, SeedTransitioned)
    assert isinstance(moved, SeedTransitioned)
    assert [born.to_stage, moved.to_stage] == ["GERMINATED", "TRAINING"]
    assert logged.sequence == history.events[-2].envelope.sequence
    assert replay.at(15) is None


def test_what_the_checkpoint_includes_is_not_replayed() -> None:
    history = History()
    boundary(history, 10)
    boundary(history, 20)
    assert Replay(history.events, 10).at(10) is None
    assert Replay(history.events, 20).last == 0


def test_a_rollback_is_replayed_with_its_cull() -> None:
    history = History()
    history.grown("a", 10, "TRAINING", "BLENDING")
    history.roll_back(17, 12)
    logged = Replay(history.events, 10).at(17)
    assert logged is not None
    assert logged.boundary is None
    back, cull = logged.contents
    assert isinstance(back, RolledBack)
    assert back.to_step == 12
    assert isinstance(cull, SeedTransitioned)
    assert cull.cause == "rollback"


def test_the_first_tensor_that_diverges_is_named() -> None:
    history = History()
    content = boundary(history, 10)
    replay = Replay(history.events, 0)
    replay.compare(content, state(), content.data, content.first_data)
    with pytest.raises(ReplayDivergence, match=r"step 10 .*model\.b"):
        replay.compare(content, state(1.0), content.data, content.first_data)


def test_other_data_is_told_apart_from_other_weights() -> None:
    history = History()
    content = boundary(history, 10)
    replay = Replay(history.events, 0)
    with pytest.raises(DataMismatch, match=r"step 10.*batch"):
        replay.compare(content, state(1.0), "other", content.first_data)
    with pytest.raises(DataMismatch, match=r"step 10.*batch"):
        replay.compare(content, state(), content.data, "other")


def test_an_inexact_replay_compares_the_data_alone() -> None:
    history = History()
    content = boundary(history, 10)
    replay = Replay(history.events, 0, exact=False)
    replay.compare(content, state(1.0), content.data, content.first_data)
    with pytest.raises(DataMismatch):
        replay.compare(content, state(), "other", content.first_data)


def test_what_another_machine_computed_is_not_compared_after_an_inexact_resume() -> None:
    history = History()
    before = boundary(history, 10)
    history.add(RunResumed(checkpoint=0, inexact=True, environment=ENVIRONMENT, notes=("torch is 9, was 8",)))
    after = boundary(history, 20)
    replay = Replay(history.events, 0)
    replay.compare(before, state(1.0), before.data, before.first_data)
    with pytest.raises(ReplayDivergence):
        replay.compare(after, state(1.0), after.data, after.first_data)
