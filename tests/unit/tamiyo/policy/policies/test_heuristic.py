"""The heuristic policy, what it observes, and the alarm that makes it wait."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from esper.events import runs
from esper.tamiyo.policy.observation import digest, observe
from esper.tamiyo.policy.observation_v1 import Observation
from esper.tamiyo.policy.policies.heuristic import Heuristic
from esper.tamiyo.policy.policy import Decision
from tests.support.runs.histories import BLUEPRINTS, History, health, table


def seen(history: History) -> Observation:
    return observe(history.state, 1)


def decide(history: History) -> Decision:
    """The decision at the history's last boundary, without exploration."""
    return Heuristic().decide(replace(seen(history), exploration=0.0))


def at_boundary(*assignments: str, sites: runs.SiteTable | None = None, gate: bool = True) -> History:
    history = History(*assignments, sites=sites, gate=gate)
    history.boundary(10)
    return history


def only_waits(decision: Decision, because: str) -> None:
    assert (decision.action, decision.site, decision.blueprint, decision.seed) == ("wait", None, None, None)
    assert decision.propensity == 1
    assert len(decision.alternatives) == 1
    assert because in decision.reason


def test_it_germinates_the_cheapest_at_an_untried_site_when_nothing_is_known() -> None:
    decision = decide(at_boundary())
    assert (decision.action, decision.site, decision.blueprint) == ("germinate", "a", BLUEPRINTS[0])
    assert decision.seed == "a#1"
    assert "nothing was tried there yet" in decision.reason
    assert "100 parameters" in decision.reason


def test_it_says_in_words_which_measurements_it_saw() -> None:
    history = History()
    history.boundary(10, health=health((1,), (0.25,)))
    decision = decide(history)
    assert decision.site == "b"
    assert "gradient to weight 0.25" in decision.reason


def test_it_grows_where_the_gradient_asks_for_it() -> None:
    history = History()
    history.boundary(10, health=health((0, 1, 2), (0.01, 0.02, 0.3)))
    assert decide(history).site == "c"


def test_measurements_that_are_not_finite_count_as_missing() -> None:
    history = History()
    history.boundary(10, health=health((0, 1), (float("nan"), float("inf"))))
    assert [c.gradient_to_weight for c in seen(history).candidates] == [None, None, None]
    assert decide(history).action == "germinate"


def test_without_gate_data_it_always_waits_and_says_so() -> None:
    only_waits(Heuristic().decide(seen(at_boundary(gate=False))), "no gate data")


def test_it_waits_while_the_host_warms_up() -> None:
    history = at_boundary("policy.warmup=25")
    only_waits(decide(history), "15 steps more")
    history.boundary(24)
    only_waits(decide(history), "1 step more")
    history.boundary(25)
    assert decide(history).action == "germinate"


def test_it_waits_out_the_cooldown_after_a_germination() -> None:
    history = at_boundary("policy.cooldown=50", "policy.embargo=1")
    history.move(history.grown("a", 10), "CULLED", 10)
    history.boundary(59)
    only_waits(decide(history), "1 step of the cooldown")
    history.boundary(60)
    assert decide(history).action == "germinate"


def test_it_starts_no_seed_while_as_many_train_as_may() -> None:
    history = at_boundary("training.concurrent=2")
    history.grown("a", 10, "TRAINING")
    assert decide(history).action == "germinate"
    history.grown("b", 10)
    assert seen(history).candidates == ()
    only_waits(decide(history), "2 in training")


def test_a_seed_may_start_while_another_blends() -> None:
    history = at_boundary()
    history.grown("a", 10, "TRAINING", "BLENDING")
    decision = decide(history)
    assert decision.action == "germinate"
    assert decision.site != "a"


def test_it_waits_for_the_germination_that_it_decided() -> None:
    history = at_boundary("training.concurrent=3")
    history.germinate("a")
    only_waits(decide(history), "not been carried out yet")


def test_it_germinates_no_more_seeds_than_it_may() -> None:
    history = at_boundary("policy.seeds=1")
    history.grown("a", 10, "TRAINING", "BLENDING", "HOLDING", "FOSSILISED")
    only_waits(decide(history), "as many seeds as it may")
    only_waits(decide(at_boundary("policy.seeds=0")), "as many seeds as it may")


def test_a_seed_that_a_rollback_removed_counts_as_germinated() -> None:
    history = at_boundary("policy.seeds=1")
    history.grown("a", 20)
    history.roll_back(25, 10)
    history.boundary(30)
    only_waits(decide(history), "as many seeds as it may")


def test_it_offers_only_what_the_budget_leaves() -> None:
    history = at_boundary("policy.budget=0.4")  # of 1010
    assert seen(history).parameters_left == 404
    history.grown("a", 10, "TRAINING", "BLENDING", "HOLDING", "FOSSILISED")
    observation = seen(history)
    assert observation.parameters_left == 304
    assert {o.parameters for c in observation.candidates for o in c.options} == {100, 300}
    history.grown("b", 10, "TRAINING", "BLENDING")
    assert {o.parameters for c in seen(history).candidates for o in c.options} == {100}
    history.move("b#1", "CULLED", 10)
    assert seen(history).parameters_left == 304
    only_waits(decide(at_boundary("policy.budget=0.05")), "50 parameters left")


def test_it_offers_no_embargoed_occupied_or_unsupported_site() -> None:
    sites = table("a", "b", "c", "d", unsupported="c")
    history = at_boundary("policy.embargo=100", "training.concurrent=3", sites=sites)
    history.move(history.grown("a", 10), "CULLED", 10)
    history.grown("b", 10)
    observation = seen(history)
    assert [c.site for c in observation.candidates] == ["d"]
    assert observation.embargoed == 1
    history.grown("d", 10)
    only_waits(decide(history), "1 rest after failures")
    history.boundary(110)
    assert [c.site for c in seen(history).candidates] == ["a"]


def test_an_alarm_makes_it_wait() -> None:
    history = History()
    for step in range(1, 7):
        history.boundary(step, loss=1.0 + step % 2 / 100)
    assert decide(history).action == "germinate"
    history.boundary(7, loss=5.0)
    only_waits(decide(history), "standard deviations above")
    history.boundary(8, loss=float("nan"))
    only_waits(decide(history), "the loss is nan")


def test_a_loss_that_falls_fast_is_let_fall() -> None:
    history = History()
    for step in range(1, 7):
        history.boundary(step, loss=2.0 * 0.9**step)
    decision = decide(history)
    assert decision.action == "wait"
    assert "the loss fell by 27.1%" in decision.reason
    assert len(decision.alternatives) > 1
    for step in range(7, 13):
        history.boundary(step, loss=1.0)
    assert decide(history).action == "germinate"


def test_it_prefers_a_site_that_was_never_tried() -> None:
    history = at_boundary("policy.embargo=1")
    history.move(history.grown("a", 10), "CULLED", 10)
    history.boundary(20)
    assert decide(history).site == "b"


def test_a_blueprint_that_failed_at_a_site_scores_lower_there() -> None:
    history = at_boundary("policy.embargo=1", sites=table("a"))
    assert decide(history).blueprint == BLUEPRINTS[0]
    history.move(history.grown("a", 10), "CULLED", 10)
    history.boundary(20)
    assert decide(history).blueprint == BLUEPRINTS[1]


def test_a_blueprint_whose_kernel_failed_at_a_site_scores_lower_there() -> None:
    history = at_boundary(sites=table("a"))
    history.germinate("a")
    history.reject(10)
    assert decide(history).blueprint == BLUEPRINTS[1]


def test_a_blueprint_that_was_kept_elsewhere_scores_higher() -> None:
    history = at_boundary()
    history.germinate("a", BLUEPRINTS[1])
    name = history.born(10)
    for stage in ("TRAINING", "BLENDING", "HOLDING", "FOSSILISED"):
        history.move(name, stage, 10)
    assert decide(history).blueprint == BLUEPRINTS[0]  # cheaper, as long as it is not proven useless
    history.move(history.grown("b", 10), "CULLED", 10)
    history.boundary(20)
    decision = decide(history)
    assert (decision.site, decision.blueprint) == ("c", BLUEPRINTS[1])


def test_it_would_rather_wait_than_repeat_failures_for_ever() -> None:
    history = at_boundary("policy.embargo=1", "policy.seeds=100", sites=table("a"))
    for attempt in range(12):
        step = 100 * 2**attempt
        history.boundary(step)
        history.germinate("a", BLUEPRINTS[attempt % 2])
        history.move(history.born(step), "CULLED", step)
    history.boundary(10**6)
    decision = decide(history)
    assert decision.action == "wait"
    assert len(decision.alternatives) == 3
    assert "no candidate promises enough" in decision.reason


def test_at_most_eight_germinations_are_listed_the_best_ones() -> None:
    names = tuple(f"s{i}" for i in range(20))
    history = History(sites=table(*names))
    history.boundary(10, health=health(tuple(range(20)), tuple(i / 20 for i in range(20))))
    decision = decide(history)
    scores = [a.score for a in decision.alternatives[1:]]
    assert decision.alternatives[0].action == "wait"
    assert len(scores) == 8
    assert scores == sorted(scores, reverse=True)
    assert decision.site == "s19"
    assert decision.score == scores[0]


def test_ties_go_to_the_first_site_and_blueprint() -> None:
    decision = decide(at_boundary(sites=table("z", "y", "x", costs=(100, 100, 100))))
    places = [(a.site, a.blueprint) for a in decision.alternatives[1:]]
    assert places[:4] == [("z", BLUEPRINTS[0]), ("z", BLUEPRINTS[1]), ("z", BLUEPRINTS[2]), ("y", BLUEPRINTS[0])]


def test_the_same_observation_gives_the_same_decision_and_digest() -> None:
    one, other = seen(at_boundary()), seen(at_boundary())
    assert digest(one) == digest(other)
    assert Heuristic().decide(one) == Heuristic().decide(other)
    assert digest(replace(one, step=11)) != digest(one)


@pytest.mark.parametrize("exploration", [0.02, 0.5, 1.0])
def test_actions_are_taken_as_often_as_their_propensities_say(exploration: float) -> None:
    observation = replace(seen(at_boundary()), exploration=exploration)
    decisions = [Heuristic().decide(replace(observation, run_seed=seed)) for seed in range(4000)]
    taken = Counter[tuple[str | None, ...]]((d.action, d.site, d.blueprint) for d in decisions)
    assert sum(a.propensity for a in decisions[0].alternatives) == pytest.approx(1)
    for a in decisions[0].alternatives:
        expected, spread = 4000 * a.propensity, (4000 * a.propensity * (1 - a.propensity)) ** 0.5
        assert abs(taken[a.action, a.site, a.blueprint] - expected) <= 4 * spread + 1
    for decision in decisions:
        chosen = {(a.action, a.site, a.blueprint): a.propensity for a in decision.alternatives}
        assert chosen[decision.action, decision.site, decision.blueprint] == decision.propensity


def test_an_explored_action_says_so() -> None:
    observation = replace(seen(at_boundary()), exploration=1.0)
    decisions = [Heuristic().decide(replace(observation, run_seed=seed)) for seed in range(50)]
    best = Heuristic().decide(replace(observation, exploration=0.0))
    for decision in decisions:
        is_best = (decision.action, decision.site, decision.blueprint) == (best.action, best.site, best.blueprint)
        assert ("explored" in decision.reason) is not is_best


def test_without_exploration_the_best_action_is_certain() -> None:
    decision = decide(at_boundary())
    assert decision.propensity == 1
    assert sorted(a.propensity for a in decision.alternatives)[:-1] == [0.0] * (len(decision.alternatives) - 1)
