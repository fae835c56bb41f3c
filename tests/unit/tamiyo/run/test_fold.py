"""The fold of a run's events, and what follows from it about sites."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from esper.errors import SequenceGap
from esper.events import Envelope, Event, assets, runs
from esper.kasmina.seed.stages import IllegalMove, Stage
from esper.tamiyo.policy.observation import observe
from esper.tamiyo.run.fold import WINDOW, apply, fold
from esper.tamiyo.run.sites import embargo_end, failures, next_seed_name
from esper.tamiyo.run.state import FOLD, RunState, settings_of
from tests.support.runs.histories import ENVIRONMENT, RUN, TIME, History, health, table


def test_a_run_must_begin_with_run_started() -> None:
    boundary = History().boundary(10)
    first = Event(Envelope(id=UUID(int=1), time=TIME, writer="w", epoch=1, sequence=1), boundary.content)
    with pytest.raises(SequenceGap, match="not RunStarted"):
        apply(RunState(RUN), first)


def test_a_run_starts_once() -> None:
    history = History()
    with pytest.raises(SequenceGap, match="RunStarted cannot be event 3"):
        history.add(history.events[0].content)


def test_a_missing_event_is_a_gap_and_so_is_a_repeated_one() -> None:
    history = History()
    for step in (10, 20, 30):
        history.boundary(step)
    with pytest.raises(SequenceGap, match="event 3 is missing"):
        fold(RunState(RUN), [*history.events[:2], *history.events[3:]])
    with pytest.raises(SequenceGap, match="event 6 is missing"):
        apply(history.state, history.events[-1])


def test_an_event_of_another_topic_is_refused() -> None:
    rejected = assets.KernelRejected(blueprint="b", kind="Linear", dims=(1, 1), seed=0, reason="no")
    with pytest.raises(SequenceGap, match="KernelRejected cannot be event"):
        History().add(rejected)


def test_the_settings_of_a_run_are_those_it_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    history = History("policy.seeds=3")
    monkeypatch.setenv("ESPER_POLICY__SEEDS", "99")
    assert settings_of(history.state).policy.seeds == 3
    assert settings_of(history.state) == history.settings


def test_a_seed_is_born_at_its_decision_and_lives_through_its_stages() -> None:
    history = History()
    history.boundary(10)
    name = history.germinate("a")
    pending = history.state.pending
    assert pending is not None
    assert pending.seed == name
    history.boundary(20)
    assert history.born(20) == name == "a#1"
    assert history.state.pending is None
    for step, stage in ((30, "TRAINING"), (40, "BLENDING"), (50, "HOLDING"), (60, "FOSSILISED")):
        assert history.state.seeds[name].live
        history.move(name, stage, step)
    seed = history.state.seeds[name]
    assert (seed.stage, seed.since, seed.live, seed.site) == (Stage.FOSSILISED, 60, False, "a")
    assert seed.transitions[0].to_stage == "GERMINATED"


def test_a_move_that_is_not_in_the_table_is_refused() -> None:
    history = History()
    name = history.grown("a", 10)
    with pytest.raises(IllegalMove, match="from GERMINATED to BLENDING"):
        history.move(name, "BLENDING", 20)
    history.move(name, "CULLED", 20)
    with pytest.raises(IllegalMove, match="from CULLED to TRAINING"):
        history.move(name, "TRAINING", 30)


def test_a_transition_from_a_stage_that_the_seed_is_not_in_is_refused() -> None:
    history = History()
    name = history.grown("a", 10, "TRAINING")
    born = history.state.seeds[name].transitions[0]
    with pytest.raises(IllegalMove, match="leaves DORMANT but is TRAINING"):
        history.add(born)


def test_an_occupied_site_holds_no_second_seed() -> None:
    history = History()
    history.grown("a", 10)
    history.germinate("a")
    with pytest.raises(IllegalMove, match="occupied"):
        history.born(20)


def test_a_seed_has_the_next_name_of_its_site() -> None:
    history = History()
    history.germinate("a")
    born = runs.SeedTransitioned(
        site="a",
        seed="a#2",
        blueprint="b",
        kernel="k",
        from_stage="DORMANT",
        to_stage="GERMINATED",
        step=1,
        cause="decision",
        gate=None,
        evidence=None,
    )
    with pytest.raises(IllegalMove, match="whose next seed is a#1"):
        history.add(born)


def test_only_one_germination_waits_to_be_carried_out() -> None:
    history = History()
    history.germinate("a")
    with pytest.raises(IllegalMove, match="is not carried out"):
        history.germinate("b")


def test_a_failed_kernel_ends_its_decision_and_is_remembered() -> None:
    history = History()
    history.germinate("a", "mlp@1")
    history.reject(10)
    rejection = history.state.rejections[0]
    assert history.state.pending is None
    assert (rejection.site, rejection.blueprint, rejection.step) == ("a", "mlp@1", 10)
    with pytest.raises(IllegalMove, match="was not waiting"):
        history.add(runs.DecisionRejected(decision="0/1", step=10, reason="kernel", detail="", site="a"))


def test_nothing_happens_in_a_run_that_is_over_or_paused() -> None:
    history = History()
    history.boundary(10)
    history.add(runs.RunPaused(step=10, reason="Ctrl-C"))
    with pytest.raises(IllegalMove, match="a boundary in a run that is paused"):
        history.boundary(20)
    history.add(runs.RunResumed(checkpoint=10, inexact=True, environment=ENVIRONMENT, notes=()))
    history.boundary(20)
    history.add(runs.RunFailed(step=20, cause="the loss is nan"))
    assert (history.state.status, history.state.cause) == ("failed", "the loss is nan")
    with pytest.raises(IllegalMove, match="failed cannot be resumed"):
        history.add(runs.RunResumed(checkpoint=10, inexact=False, environment=ENVIRONMENT, notes=()))


def test_a_verdict_uses_a_fold_and_a_passed_one_reserves_another() -> None:
    history = History()
    first = history.grown("a", 10, "TRAINING")
    history.move(first, "CULLED", 20, gate="verdict", evidence=runs.Evidence(passed=False, reason="", fold=0))
    assert (history.state.gate_uses, history.state.verdicts) == (1, 1)
    second = history.grown("b", 30, "TRAINING")
    evidence = runs.Evidence(passed=True, reason="", fold=1, audit_fold=2)
    history.move(second, "BLENDING", 40, gate="verdict", evidence=evidence)
    assert (history.state.gate_uses, history.state.verdicts) == (3, 2)
    history.move(second, "HOLDING", 50, gate="blend", evidence=runs.Evidence(passed=True, reason=""))
    history.move(second, "FOSSILISED", 60, gate="audit", evidence=runs.Evidence(passed=True, reason="", fold=2))
    assert (history.state.gate_uses, history.state.verdicts) == (3, 2)


def test_trials_belong_to_their_seed_in_training() -> None:
    history = History()
    name = history.grown("a", 10, "TRAINING")
    trial = runs.Trial(seed=name, fold=1, n=10, mean=0.1, s=0.2, gradient_norm=1.0)
    history.boundary(20, trials=(trial,))
    assert history.state.seeds[name].trials == ((20, trial),)
    history.move(name, "BLENDING", 20)
    with pytest.raises(IllegalMove, match="not in TRAINING"):
        history.boundary(30, trials=(trial,))


def test_a_rollback_returns_seeds_to_what_they_were_and_forgets_no_name() -> None:
    history = History()
    older = history.grown("a", 10, "TRAINING")
    trial = runs.Trial(seed=older, fold=1, n=10, mean=0.1, s=0.2, gradient_norm=1.0)
    history.boundary(20, loss=2.0, trials=(trial,))
    then = history.state
    history.boundary(30, loss=3.0, trials=(trial,))
    history.move(older, "BLENDING", 30)
    newer = history.grown("b", 40)
    history.germinate("c")
    history.roll_back(45, 20)
    state = history.state
    assert state.seeds == then.seeds
    assert newer not in state.seeds
    assert state.pending is None
    assert state.losses == then.losses == (2.0,)
    assert (state.step, state.rollbacks, state.last_birth) == (45, (45,), 40)
    assert next_seed_name(state, "b") == "b#2"


def test_a_rollback_keeps_a_germination_that_was_decided_before() -> None:
    history = History()
    history.boundary(20)
    history.germinate("a")
    history.roll_back(25, 20)
    assert history.state.pending is not None


def candidates(state: RunState, step: int) -> set[str]:
    """The sites that may hold a seed at ``step``."""
    return {each.site for each in observe(replace(state, step=step), 1).candidates}


def rests_until(state: RunState, site: str) -> int:
    return embargo_end(failures(state).get(site, []), 100)


def test_the_blending_seed_of_a_rollback_is_culled_and_its_site_embargoed() -> None:
    history = History("policy.embargo=100", "policy.cooldown=0")
    history.grown("a", 10, "TRAINING", "BLENDING")
    history.roll_back(45, 20)
    assert history.state.seeds["a#1"].stage is Stage.CULLED
    assert candidates(history.state, 144) == {"b", "c"}
    assert candidates(history.state, 145) == {"a", "b", "c"}


def test_a_site_rests_twice_as_long_after_each_cull() -> None:
    history = History("policy.embargo=100", "policy.cooldown=0", "training.concurrent=2")
    assert rests_until(history.state, "a") == 0
    for culled, until in ((10, 110), (200, 400), (500, 900)):
        history.grown("a", culled - 5)
        assert candidates(history.state, culled) == {"b", "c"}
        history.move(f"a#{history.state.born['a']}", "CULLED", culled)
        assert rests_until(history.state, "a") == until
        assert candidates(history.state, until - 1) == {"b", "c"}
        assert candidates(history.state, until) == {"a", "b", "c"}


def test_every_third_kernel_that_does_not_load_counts_as_a_failure() -> None:
    history = History()
    ends = []
    for step in range(1, 8):
        history.boundary(step)
        history.germinate("a")
        history.reject(step)
        ends.append(rests_until(history.state, "a"))
    assert ends == [0, 0, 103, 103, 103, 206, 206]
    assert failures(history.state) == {"a": [3, 6]}


def test_a_fossilised_seed_leaves_its_site_to_others() -> None:
    history = History("policy.cooldown=0")
    history.grown("a", 10, "TRAINING", "BLENDING", "HOLDING", "FOSSILISED")
    assert "a" in candidates(history.state, 10)
    assert history.grown("a", 20) == "a#2"


def test_health_is_the_last_that_was_measured_of_each_site() -> None:
    history = History()
    history.boundary(10, health=health((0, 1), (0.1, 0.2)))
    history.boundary(20, health=health((2, 1), (None, 0.4)))
    ratios = {site: row["gradient_to_weight"] for site, row in history.state.health.items()}
    assert ratios == {"a": 0.1, "b": 0.4, "c": None}


def test_health_stays_with_its_site_when_the_table_changes() -> None:
    history = History()
    history.boundary(10, health=health((0, 1, 2), (0.1, 0.2, 0.3)))
    history.boundary(20, sites=table("c", "new", "a"))
    history.boundary(30, sites=table("new", "a", "c"), health=health((0,), (0.5,)))
    ratios = {site: row["gradient_to_weight"] for site, row in history.state.health.items()}
    assert ratios == {"a": 0.1, "c": 0.3, "new": 0.5}


def test_health_of_a_site_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(IllegalMove, match="does not have"):
        History().boundary(10, health=health((3,), (0.1,)))


def test_the_governor_sees_the_last_losses_only() -> None:
    history = History()
    for step in range(1, 31):
        history.boundary(step, loss=float(step))
    assert history.state.losses == tuple(map(float, range(31 - WINDOW, 31)))
    assert history.state.loss_steps == tuple(range(31 - WINDOW, 31))


def test_checkpoints_count_from_commit_to_retirement() -> None:
    history = History()
    history.checkpoint(10)
    history.add(runs.CheckpointRetired(step=0, manifest="m0"))
    assert [c.step for c in history.state.checkpoints] == [10]


def test_commands_are_known_to_be_answered() -> None:
    history = History()
    command = UUID(int=7)
    history.add(
        runs.CommandRejected(step=1, command=command, kind="cull", seed="x", issuer="me", reason="there is no seed x")
    )
    assert history.state.answered == {str(command)}


def test_a_completed_run_says_what_it_reached() -> None:
    history = History()
    history.boundary(10)
    history.add(runs.RunCompleted(step=17, final_loss=0.5, test={"accuracy": 0.9}, parameters_digest="aa", seeds={}))
    state = history.state
    assert (state.status, state.step, state.final_loss, state.test) == ("completed", 17, 0.5, {"accuracy": 0.9})


def test_states_have_the_digests_that_this_number_of_the_fold_gives() -> None:
    """Where this fails, raise FOLD: views that are kept were made by the fold before, and are told apart by it."""
    history = History()
    history.boundary(10, health=health((0,), (0.5,)))
    history.grown("a", 10, "TRAINING")
    history.roll_back(17, 0)
    state = replace(history.state, settings="{}")
    assert (FOLD, state.digest_of_state()) == (4, "a12c6a74fbd498f2f7477f9ada2a9caa890352219a39adbc973814c774befd45")
