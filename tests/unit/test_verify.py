"""Verification finds what was changed in a run's events."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from esper.events import Event, runs
from esper.tamiyo.verify import Report, verify
from tests.histories import RUN, History, changed, find, simulate


@pytest.fixture(scope="module")
def events() -> list[Event]:
    """A run with verdicts passed and not, audits, failed kernels, commands and rollbacks."""
    return simulate(random.Random(28), 60, "policy.seeds=30", "policy.embargo=30").events


def findings(events: list[Event], place: int, **fields: Any) -> list[str]:
    """What is found at ``place`` when its content has other fields."""
    return at(verify(RUN, changed(events, place, **fields)), place)


def at(report: Report, place: int) -> list[str]:
    return [finding.what for finding in report.findings if finding.sequence == place + 1]


def gate(events: list[Event], name: str, to_stage: str) -> tuple[int, runs.Evidence]:
    place = find(events, runs.SeedTransitioned, gate=name, to_stage=to_stage)
    content = events[place].content
    assert isinstance(content, runs.SeedTransitioned)
    assert content.evidence is not None
    return place, content.evidence


def test_a_run_that_nobody_touched_has_no_findings(events: list[Event]) -> None:
    report = verify(RUN, events)
    assert report.ok
    assert report.findings == ()
    counts = report.counts
    assert counts["events"] == len(events)
    assert counts["observations"] == counts["decisions"] == 60
    assert min(counts["verdicts"], counts["audits"], counts["transitions"]) > 0


def test_a_run_under_another_name_has_wrong_ids(events: list[Event]) -> None:
    report = verify("another", events)
    assert {finding.sequence for finding in report.findings} == set(range(1, len(events) + 1))
    assert "which is not that of event 1 of epoch 1" in report.findings[0].what


def test_an_older_epoch_after_a_newer_one_is_found(events: list[Event]) -> None:
    place = len(events) - 1
    old = replace(events[place].envelope, epoch=0)
    assert any("its epoch is 0" in w for w in at(verify(RUN, [*events[:-1], replace(events[-1], envelope=old)]), place))


def test_a_missing_event_ends_the_check(events: list[Event]) -> None:
    report = verify(RUN, [*events[:20], *events[21:]])
    assert report.counts["events"] == 20
    assert report.findings[-1].sequence == 21
    assert "event 21 is missing" in report.findings[-1].what


def test_an_illegal_transition_ends_the_check(events: list[Event]) -> None:
    place = find(events, runs.SeedTransitioned, to_stage="TRAINING")
    assert "cannot go from GERMINATED to HOLDING" in findings(events, place, to_stage="HOLDING")[0]


@pytest.mark.parametrize("field", ["observation", "reason", "blueprint", "propensity"])
def test_a_changed_decision_is_found(events: list[Event], field: str) -> None:
    place = find(events, runs.DecisionMade, action="germinate")
    value = 0.5 if field == "propensity" else "other"
    assert findings(events, place, **{field: value})[0].startswith(f"{field} is {value}, computed ")


def test_a_changed_alternative_is_found(events: list[Event]) -> None:
    place = find(events, runs.DecisionMade, action="wait")
    content = events[place].content
    assert isinstance(content, runs.DecisionMade)
    more = runs.Alternative(action="germinate", site="a", blueprint="b", score=0.1, propensity=0.0)
    assert "alternatives is" in findings(events, place, alternatives=(*content.alternatives, more))[0]


def test_a_changed_measurement_is_found_at_the_decision_after_it(events: list[Event]) -> None:
    place = find(events, runs.BoundaryReached)
    report = verify(RUN, changed(events, place, loss=7.0))
    first = find(events, runs.DecisionMade)
    assert any(what.startswith("observation is") for what in at(report, first))


def test_decisions_of_a_policy_that_is_not_known_are_counted(events: list[Event]) -> None:
    report = verify(RUN, changed(events, find(events, runs.DecisionMade), version="0"))
    assert report.ok
    assert report.counts["unknown_policy"] == 1


def test_a_second_decision_at_a_boundary_is_found() -> None:
    history = History()
    history.boundary(10)
    history.decide()
    again = next(e.content for e in history.events if isinstance(e.content, runs.DecisionMade))
    event = history.add(replace(again, action="wait", site=None, blueprint=None, seed=None))
    assert event is history.events[-1]
    assert "a second decision at step 10" in at(verify(RUN, history.events), len(history.events) - 1)


def test_a_birth_without_its_decision_is_found() -> None:
    history = History()
    history.boundary(10)
    history.germinate("a")
    history.born(20)
    place = find(history.events, runs.SeedTransitioned)
    assert findings(history.events, place, blueprint="mlp@9")[0].startswith("the blueprint at birth is mlp@9")
    without = History()
    without.boundary(10)
    without.add(history.events[place].content)
    assert [f.what for f in verify(RUN, without.events).findings] == ["seed a#1 was born without a decision"]


@pytest.mark.parametrize("field", ["bound", "mean", "s", "sigma", "z", "n", "delta", "rent"])
def test_a_changed_number_of_a_verdict_is_found(events: list[Event], field: str) -> None:
    place, evidence = gate(events, "verdict", "BLENDING")
    other = getattr(evidence, field) * 2
    assert findings(events, place, evidence=replace(evidence, **{field: other}))


@pytest.mark.parametrize("field", ["bound", "mean", "s", "z", "n", "delta"])
def test_a_changed_number_of_an_audit_is_found(events: list[Event], field: str) -> None:
    place, evidence = gate(events, "audit", "FOSSILISED")
    other = getattr(evidence, field) * 2
    assert findings(events, place, evidence=replace(evidence, **{field: other}))


def test_a_verdict_that_does_not_follow_from_its_measurements_is_found(events: list[Event]) -> None:
    place, _ = gate(events, "verdict", "BLENDING")
    last = max(i for i in range(place) if isinstance(events[i].content, runs.BoundaryReached))
    boundary = events[last].content
    assert isinstance(boundary, runs.BoundaryReached)
    assert boundary.trials
    trials = tuple(replace(trial, mean=trial.mean + 1e-6) for trial in boundary.trials)
    found = at(verify(RUN, changed(events, last, trials=trials)), place)
    assert any("does not follow from its evidence and isolated measurements" in what for what in found)


def test_a_fold_that_was_used_before_is_found(events: list[Event]) -> None:
    place, evidence = gate(events, "verdict", "BLENDING")
    assert evidence.fold is not None
    other = replace(evidence, fold=evidence.fold + 1)
    assert any(what.startswith("the verdict's fold is") for what in findings(events, place, evidence=other))
    other = replace(evidence, audit_fold=evidence.fold)
    assert any(what.startswith("the audit's fold is") for what in findings(events, place, evidence=other))


def test_an_audit_on_another_fold_than_the_reserved_one_is_found(events: list[Event]) -> None:
    place, evidence = gate(events, "audit", "FOSSILISED")
    assert evidence.fold is not None
    other = replace(evidence, fold=evidence.fold + 1)
    assert any(what.startswith("the audit's fold is") for what in findings(events, place, evidence=other))


def test_a_gate_that_says_no_but_lets_pass_is_found(events: list[Event]) -> None:
    place, evidence = gate(events, "birth", "TRAINING")
    assert "passed=False" in findings(events, place, evidence=replace(evidence, passed=False))[0]
    assert "gave no evidence" in findings(events, place, evidence=None)[0]


def test_a_seed_that_changes_its_kernel_is_found(events: list[Event]) -> None:
    place = find(events, runs.SeedTransitioned, to_stage="HOLDING")
    assert "the kernel of seed" in findings(events, place, kernel="other")[0]


def test_a_rollback_to_where_no_checkpoint_is_is_found(events: list[Event]) -> None:
    place = find(events, runs.RolledBack)
    assert any("of which there is no checkpoint" in what for what in findings(events, place, to_step=1))
    assert findings(events, place, removed=("z#1",))[0].startswith("what was removed is ['z#1']")


def test_a_command_that_was_answered_twice_is_found() -> None:
    history = History()
    answer = runs.CommandRejected(step=1, command=UUID(int=1), kind="cull", seed="x", issuer="me", reason="no seed x")
    history.add(answer)
    history.add(answer)
    assert [f.what for f in verify(RUN, history.events).findings] == [f"command {UUID(int=1)} was answered before"]


def test_a_boundary_that_goes_back_is_found() -> None:
    history = History()
    history.boundary(20)
    history.boundary(20)
    history.boundary(10)
    assert [f.what for f in verify(RUN, history.events).findings] == [
        "a boundary at step 20, after step 20",
        "a boundary at step 10, after step 20",
    ]


def test_a_wrong_count_of_seeds_at_the_end_is_found(events: list[Event]) -> None:
    assert findings(events, len(events) - 1, seeds={"FOSSILISED": 50})[0].startswith("the count of seeds is")
