"""Verification finds what was changed in a run's events."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from esper.errors import RunUnusable
from esper.events import Event, runs
from esper.tamiyo.policy.policies import newest
from esper.tamiyo.proof.verify import Verification, different, verify
from esper.tamiyo.rules import checkpoints, decider, script
from tests.support.paths import ROOT
from tests.support.runs.histories import (
    ENVIRONMENT,
    RUN,
    History,
    changed,
    find,
    health,
    later,
    simulate,
    table,
    without,
)


@pytest.fixture(scope="module")
def events() -> list[Event]:
    """A run with verdicts passed and not, audits, failed kernels, commands and rollbacks."""
    return simulate(random.Random(18), 60, "policy.seeds=30", "policy.embargo=30").events


def findings(events: list[Event], place: int, **fields: Any) -> list[str]:
    """What is found at ``place`` when its content has other fields."""
    return at(verify(RUN, changed(events, place, **fields)), place)


def at(report: Verification, place: int) -> list[str]:
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
    report = verify(RUN, changed(events, place, to_stage="HOLDING"))
    assert report.findings[-1].sequence == place + 1
    assert "cannot go from GERMINATED to HOLDING" in report.findings[-1].what


def test_a_stage_that_is_none_ends_the_check(events: list[Event]) -> None:
    place = find(events, runs.SeedTransitioned, to_stage="TRAINING")
    report = verify(RUN, changed(events, place, to_stage="ASLEEP"))
    assert report.findings[-1].sequence == place + 1
    assert "goes to ASLEEP, which is no stage" in report.findings[-1].what


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


def test_a_decision_of_a_policy_that_is_not_known_is_counted_and_told_with_what_there_is(events: list[Event]) -> None:
    place = find(events, runs.DecisionMade)
    report = verify(RUN, changed(events, place, version="0"))
    (found,) = report.findings
    assert found.sequence == place + 1
    assert found.what.startswith("policy heuristic 0 is not known here, so its decision cannot be made again; known: ")
    assert report.counts["unknown_policy"] == 1
    assert report.counts["decisions"] == report.counts["observations"] == 59


def test_a_second_decision_at_a_boundary_is_found() -> None:
    history = History()
    history.boundary(10)
    history.decide()
    again = next(e.content for e in history.events if isinstance(e.content, runs.DecisionMade))
    history.add(replace(again, action="wait", site=None, blueprint=None, seed=None))
    (found,) = verify(RUN, history.events).findings
    assert (found.sequence, found.what) == (
        len(history.events),
        "it is DecisionMade, which nothing calls for here",
    )


def test_a_boundary_without_a_decision_is_found() -> None:
    history = History()
    history.boundary(10)
    (found,) = verify(RUN, history.events).findings
    assert (found.sequence, found.rule) == (4, "a decision is made at every boundary")
    assert found.what == "the transaction ends, where a decision had to come"


def test_a_birth_without_its_decision_is_found(events: list[Event]) -> None:
    place = find(events, runs.SeedTransitioned, from_stage="DORMANT")
    assert findings(events, place, blueprint="mlp@9")[0].startswith("blueprint is mlp@9, computed ")
    born = events[place].content
    history = History()
    history.boundary(10)
    history.add(born)
    (found,) = verify(RUN, history.events).findings
    assert (found.sequence, found.what) == (4, "it is SeedTransitioned, where a decision had to come")


def test_a_germination_that_is_not_carried_out_at_the_next_boundary_is_found(events: list[Event]) -> None:
    place = find(events, runs.SeedTransitioned, from_stage="DORMANT")
    found = at(verify(RUN, without(events, place)), place)
    assert any("where seed a#1 was to be born or its kernel rejected" in what for what in found)


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
    assert any(what.startswith("evidence.sigma is ") for what in found)


def test_a_fold_that_was_used_before_is_found(events: list[Event]) -> None:
    place, evidence = gate(events, "verdict", "BLENDING")
    assert evidence.fold is not None
    other = replace(evidence, fold=evidence.fold + 1)
    assert any(what.startswith("evidence.fold is ") for what in findings(events, place, evidence=other))
    other = replace(evidence, audit_fold=evidence.fold)
    assert any(what.startswith("evidence.audit_fold is ") for what in findings(events, place, evidence=other))


def test_an_audit_on_another_fold_than_the_reserved_one_is_found(events: list[Event]) -> None:
    place, evidence = gate(events, "audit", "FOSSILISED")
    assert evidence.fold is not None
    other = replace(evidence, fold=evidence.fold + 1)
    assert any(what.startswith("evidence.fold is ") for what in findings(events, place, evidence=other))


def test_a_gate_that_says_no_but_lets_pass_is_found(events: list[Event]) -> None:
    place, evidence = gate(events, "birth", "TRAINING")
    assert findings(events, place, evidence=replace(evidence, passed=False)) == [
        "evidence.passed is False, computed True"
    ]
    assert "the gate birth gave no evidence" in findings(events, place, evidence=None)[0]


def test_a_seed_that_changes_its_kernel_is_found(events: list[Event]) -> None:
    place = find(events, runs.SeedTransitioned, to_stage="HOLDING")
    assert findings(events, place, kernel="other")[0].startswith("kernel is other, computed kernel of ")


def test_a_rollback_to_where_no_checkpoint_is_is_found(events: list[Event]) -> None:
    place = find(events, runs.RolledBack)
    assert findings(events, place, to_step=1)[0].startswith("to_step is 1, computed ")
    assert findings(events, place, removed=("z#1",))[0].startswith("removed is ('z#1',), computed ")


def test_a_command_that_was_answered_twice_is_found(events: list[Event]) -> None:
    place = find(events, runs.CommandRejected)
    answer = events[place].content
    assert isinstance(answer, runs.CommandRejected)
    again = [*events[: place + 1], *later([replace(events[place], content=answer), *events[place + 1 :]])]
    report = verify(RUN, again)
    assert f"command {answer.command} was answered before" in at(report, place + 1)


def test_a_boundary_that_goes_back_is_found() -> None:
    history = History("policy.seeds=0")
    for step in (20, 20, 10):
        history.boundary(step)
        history.decide()
    assert [(f.sequence, f.what) for f in verify(RUN, history.events).findings] == [
        (5, "a boundary at step 20, after step 20"),
        (7, "a boundary at step 10, after step 20"),
    ]


def test_a_wrong_count_of_seeds_at_the_end_is_found(events: list[Event]) -> None:
    said = findings(events, len(events) - 1, seeds={"FOSSILISED": 50})
    assert said[0].startswith("seeds is {'FOSSILISED': 50}, computed ")


def test_verify_needs_neither_torch_nor_the_trainer() -> None:
    code = """
import random, sys
from esper.tamiyo.proof.verify import verify
from tests.support.runs.histories import RUN, simulate
for where in ("local", "remote"):
    report = verify(RUN, simulate(random.Random(13), 30, f"decision.where={where}").events)
    assert report.ok and report.counts["decisions"]
found = [name for name in sys.modules if name.partition(".")[0] == "torch" or name.startswith("esper.tolaria")]
sys.exit(f"imported: {found}" if found else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rules_that_this_version_does_not_know_are_refused_in_one_line(events: list[Event]) -> None:
    with pytest.raises(
        RunUnusable, match=r"^run a-run decides by rules 2, this version of Esper knows rules 1 alone; "
    ):
        verify(RUN, changed(events, 0, rules=2))


def paused_where_one_is_due() -> History:
    """A pause at a step where a checkpoint is due: both have the same manifest, for that holds no reason."""
    history = History("policy.seeds=0", "checkpoint.keep=1")
    history.boundary(10)
    history.decide()
    for reason in ("epoch", "pause"):
        history.add(
            runs.CheckpointCommitted(step=14, manifest="m14", sequence=history.state.sequence, reason=reason, size=1)
        )
    history.add(runs.RunPaused(step=14, reason="Ctrl-C"))
    history.epoch += 1
    history.add(runs.RunResumed(checkpoint=14, inexact=False, environment=ENVIRONMENT, notes=()))
    return history


def test_of_two_equal_checkpoints_each_is_retired() -> None:
    history = paused_where_one_is_due()
    history.boundary(20)
    history.decide()
    history.checkpoint(25)
    for _ in range(2):
        history.add(runs.CheckpointRetired(step=14, manifest="m14"))
    assert verify(RUN, history.events).findings == ()
    assert [each.step for each in history.state.checkpoints] == [0, 25]
    history.add(runs.CheckpointRetired(step=14, manifest="m14"))
    assert "there is no checkpoint m14 of step 14" in verify(RUN, history.events).findings[-1].what


def test_a_pause_in_a_replay_lies_before_the_last_boundary() -> None:
    history = History("policy.seeds=0")
    for step in (10, 20):
        history.boundary(step)
        history.decide()
    history.checkpoint(15)
    history.add(runs.RunPaused(step=15, reason="Ctrl-C"))
    history.epoch += 1
    history.add(runs.RunResumed(checkpoint=15, inexact=False, environment=ENVIRONMENT, notes=()))
    end = runs.RunCompleted(step=25, final_loss=1.0, test={}, parameters_digest="ff", seeds={})
    history.add(end)
    assert verify(RUN, history.events).findings == ()


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_pause_stays_accepted_though_its_writer_was_lost(carried_out: bool) -> None:
    history = History("policy.seeds=0")
    asked = iter((script.Command(UUID(int=1), "pause", None, "me"), None))

    def answer(question: script.Question) -> Any:
        return newest(question.name) if isinstance(question, script.PolicyNamed) else next(asked)

    history.carry_out(decider.boundary(history.state, history.arrival(10, failed=()), None), answer)
    history.epoch += 1
    history.add(runs.RunResumed(checkpoint=0, inexact=False, environment=ENVIRONMENT, notes=(), reopened=True))
    history.checkpoint(10)
    if carried_out:
        history.add(runs.RunPaused(step=10, reason="a pause command"))
        assert verify(RUN, history.events).findings == ()
    else:
        history.boundary(20)
        said = [finding.what for finding in verify(RUN, history.events).findings]
        assert "the run goes on, though a command to pause it was accepted" in said


def test_a_resume_whose_writer_was_lost_before_its_first_event_has_two_in_one_epoch() -> None:
    history = History("policy.seeds=0")
    history.epoch += 1
    for reopened in (True, False):
        history.add(runs.RunResumed(checkpoint=0, inexact=False, environment=ENVIRONMENT, notes=(), reopened=reopened))
    assert verify(RUN, history.events).findings == ()
    history.add(runs.RunResumed(checkpoint=0, inexact=False, environment=ENVIRONMENT, notes=()))
    assert "in which the run went on" in verify(RUN, history.events).findings[-1].what


@pytest.mark.parametrize(("checkpoint", "right"), [(0, False), (10, True), (20, False)])
def test_a_resume_begins_at_the_newest_checkpoint_that_was_not_damaged(checkpoint: int, right: bool) -> None:
    history = History("policy.seeds=0")
    for step in (10, 20):
        history.boundary(step)
        history.decide()
        history.checkpoint(step)
    history.epoch += 1
    notes = (checkpoints.damaged_note(20),)
    history.add(runs.RunResumed(checkpoint=checkpoint, inexact=False, environment=ENVIRONMENT, notes=notes))
    assert verify(RUN, history.events).ok is right


@pytest.mark.parametrize("step", [-5, 20, 10**9])
def test_a_checkpoint_of_a_step_that_was_not_done_is_found(step: int) -> None:
    history = History("policy.seeds=0")
    history.boundary(10)
    history.decide()
    history.checkpoint(19)
    assert verify(RUN, history.events).ok
    history.checkpoint(step)
    assert "a checkpoint is of a step that was done" in {each.rule for each in verify(RUN, history.events).findings}


def test_a_checkpoint_after_the_end_is_found(events: list[Event]) -> None:
    late = History("policy.seeds=0")
    late.add(runs.RunCompleted(step=5, final_loss=1.0, test={}, parameters_digest="ff", seeds={}))
    late.checkpoint(7)
    assert [each.what for each in verify(RUN, late.events).findings] == ["the run is completed"]


def test_a_run_that_reached_a_boundary_did_update() -> None:
    history = History("policy.seeds=0")
    history.boundary(10)
    history.decide()
    history.add(runs.RunFailed(step=13, cause=decider.NEVER_UPDATED))
    assert "it is RunFailed, where RolledBack had to come" in verify(RUN, history.events).findings[-1].what


def test_other_folds_than_the_settings_say_are_found() -> None:
    assert "folds, the setting gate.folds is 5" in verify(RUN, History("gate.folds=5").events).findings[0].what


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (runs.RunStarted, {"sites": replace(table("a", "b"), reasons=())}),
        (runs.BoundaryReached, {"health": replace(health((0,), (0.5,)), site=(-1,))}),
    ],
)
def test_values_that_no_trainer_writes_are_a_finding(events: list[Event], kind: type, fields: dict[str, Any]) -> None:
    found = verify(RUN, changed(events, find(events, kind), **fields)).findings
    assert "what follows was not checked" in found[-1].what


def test_settings_that_are_none_are_an_error_in_words(events: list[Event]) -> None:
    with pytest.raises(RunUnusable, match="the run's settings are no JSON object"):
        verify(RUN, changed(events, 0, settings="{not json"))


def test_a_measurement_that_is_not_a_number_is_what_it_is() -> None:
    trial = runs.Trial(seed="a#1", fold=1, n=100, mean=0.1, s=float("nan"), gradient_norm=1.0)
    again = replace(trial, s=float("nan"))
    assert list(different((trial,), (again,), "trials")) == []
    assert list(different((trial,), (replace(again, s=0.5),), "trials")) == ["trials[0].s is nan, computed 0.5"]
