"""What a remote policy proposes, and what the trainer makes of it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from esper.events import Event, runs
from esper.events.runs import DecisionMade, DecisionRejected
from esper.tamiyo.policy.observation import digest, observe
from esper.tamiyo.policy.remote import Objection, objection, proposals, questions, signal_of
from esper.tamiyo.proof.verify import verify
from esper.tamiyo.proof.why import explain, render
from esper.tamiyo.rules.decisions import ANSWERS
from esper.tamiyo.run.fold import apply
from esper.tamiyo.run.state import RunState
from esper.tolaria.journal.proposals import answered_by
from tests.support.runs.deciding import Play
from tests.support.runs.histories import BLUEPRINTS, RUN, History, changed, find, later, simulate


def told(answers: Iterable[DecisionMade | DecisionRejected]) -> list[tuple[str, str]]:
    return [(each.decision, "made" if isinstance(each, DecisionMade) else each.reason) for each in answers]


def test_nothing_is_proposed_about_a_run_that_decides_for_itself() -> None:
    history = History()
    assert proposals(history.state, history.boundary(10)) == ()


def test_something_is_proposed_at_boundaries_only() -> None:
    state = RunState(RUN)
    for event in simulate(random.Random(3), 4, "decision.where=remote").events:
        state = apply(state, event)
        assert len(proposals(state, event)) == isinstance(event.content, runs.BoundaryReached)


def test_a_proposal_is_what_the_policy_decides_on_the_run_as_it_reached_the_boundary() -> None:
    play = Play()
    proposal = play.reach(10)
    assert (proposal.step, proposal.nonce, proposal.issuer) == (10, "10", "tamiyo/heuristic/1")
    assert proposal.observation == digest(observe(play.state, 1))
    assert (proposal.action, proposal.site, proposal.seed) == ("germinate", "a", "a#1")


def test_a_proposal_made_again_is_the_same_record_byte_for_byte() -> None:
    play = Play()
    proposal = play.reach(10)
    assert play.reached is not None
    first = signal_of(RUN, play.reached, proposal)
    (again,) = proposals(play.state, play.reached)
    time.sleep(0.001)
    assert signal_of(RUN, play.reached, again) == first
    assert dict(first.headers)["causation_id"].decode() == str(play.reached.envelope.id)


def test_a_decision_is_made_lag_boundaries_after_the_one_that_was_seen() -> None:
    play = Play("decision.lag=2")
    first = play.reach(10)
    assert play.answers() == []
    play.mail.put(first)
    second = play.reach(20)
    assert play.answers() == []
    play.mail.put(second)
    play.reach(30)
    (made,) = play.answers()
    assert isinstance(made, DecisionMade)
    assert (made.decision, made.step, made.observation, made.site) == ("10/1", 30, first.observation, "a")
    assert made.issuer == "tamiyo/heuristic/1"
    assert made.measured is not None
    assert set(made.measured) == {"waited", "latency"}
    assert play.mail.waited == 0


def test_the_trainer_waits_for_a_proposal_that_is_under_way() -> None:
    play = Play()
    first = play.reach(10)
    play.answers()
    play.mail.while_waiting = lambda: play.mail.put(first)
    play.reach(20)
    assert told(play.answers()) == [("10/1", "made")]
    assert play.mail.waited == 1


def test_a_miss_is_an_event_and_what_comes_later_is_rejected_once() -> None:
    play = Play()
    first = play.reach(10)
    play.answers()
    second = play.reach(20)
    missed = play.answers()
    assert told(missed) == [("10/1", "late")]
    assert missed[0].issuer is None
    play.mail.put(second, first)
    play.reach(30)
    assert told(play.answers()) == [("20/1", "made"), ("10/1", "late")]
    play.reach(40)
    assert told(play.answers()) == [("30/1", "late")]


def test_after_three_misses_it_waits_no_more_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    play = Play()
    play.at(10)
    with caplog.at_level(logging.WARNING, "esper"):
        for step in range(20, 90, 10):
            play.reach(step)
            assert told(play.answers()) == [(f"{step - 10}/1", "late")]
    assert play.mail.waited == 3
    assert len(caplog.records) == 1
    assert "without waiting" in caplog.text


def test_a_proposal_that_arrives_makes_it_wait_again() -> None:
    play = Play()
    first = play.at(10)
    for step in range(20, 60, 10):
        last = play.at(step)
    assert play.mail.waited == 3
    play.at(60, first)  # late, but somebody is there: it waits for the one that is due
    assert play.mail.waited == 4
    last = play.at(70)  # nobody after all
    assert play.mail.waited == 4
    play.mail.put(last)
    play.reach(80)
    assert told(play.answers()) == [("70/1", "made")]
    play.at(90)
    assert play.mail.waited == 5


def test_a_seed_that_was_proposed_twice_is_born_once() -> None:
    play = Play("policy.exploration=0")
    first = play.at(10)
    second = play.at(20, first)
    assert (second.site, second.seed) == (first.site, first.seed) == ("a", "a#1")
    play.mail.put(second)
    play.reach(30)
    play.history.born(30)
    (answer,) = play.answers()
    assert told([answer]) == [("20/1", "stale")]
    assert isinstance(answer, DecisionRejected)
    assert answer.detail == "site a is occupied by now"


def test_of_two_proposals_about_a_boundary_the_first_is_taken() -> None:
    play = Play()
    first = play.at(10)
    other = replace(first, issuer="another")
    play.mail.put(first, other)
    play.reach(20)
    assert told(play.answers()) == [("10/1", "made"), ("10/1", "second")]


def test_a_bad_proposal_does_not_keep_a_good_one_out() -> None:
    play = Play()
    first = play.at(10)
    play.mail.put(replace(first, issuer="forger", observation="00" * 32))
    play.mail.while_waiting = lambda: play.mail.put(first)
    play.reach(20)
    assert told(play.answers()) == [("10/1", "invalid"), ("10/1", "made")]


def test_a_proposal_to_another_run_is_not_ours() -> None:
    play = Play()
    first = play.at(10)
    play.mail.put(first, run_id="another")
    play.reach(20)
    rejected, missed = play.answers()
    assert told([rejected, missed]) == [("10/1", "invalid"), ("10/1", "late")]
    assert isinstance(rejected, DecisionRejected)
    assert "not that of its issuer and nonce in this run" in rejected.detail


@pytest.mark.parametrize("step", [-1, 0, 5, 15, 30, 10**15])
def test_a_proposal_about_no_boundary_is_rejected(step: int) -> None:
    play = Play()
    first = play.at(10)
    play.mail.put(replace(first, step=step, nonce="x"), first)
    play.reach(20)
    made, rejected = play.answers()
    assert isinstance(made, DecisionMade)
    assert isinstance(rejected, DecisionRejected)
    assert (rejected.decision, rejected.reason) == (f"{step}/1", "late" if step == 5 else "invalid")


def test_a_flood_is_answered_over_several_boundaries_and_hides_nothing() -> None:
    play = Play()
    first = play.at(10)
    play.mail.put(*(replace(first, step=15, nonce=f"x{n}") for n in range(ANSWERS + 20)), first)
    second = play.reach(20)
    answers = play.answers()
    assert told(answers[:1]) == [("10/1", "made")]
    assert len(answers) == 1 + ANSWERS
    play.mail.put(second)
    play.reach(30)
    assert len(play.answers()) == 1 + 20


def test_what_is_answered_on_the_log_is_not_answered_again_after_a_resume() -> None:
    play = Play()
    first = play.at(10)
    second = play.at(20, first)
    third = play.at(30)  # a miss
    resumed = Play(answered=answered_by(play.history.events))
    resumed.history = play.history
    resumed.asked = questions(RUN, play.history.events, 1)
    resumed.mail.put(first, second, third)
    resumed.reach(40)
    assert told(resumed.answers()) == [("30/1", "made"), ("20/1", "late")]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another observation": ({"observation": "00" * 32}, "but boundary 10 gives"),
    "an unknown policy": ({"policy": "oracle"}, "it is by policy oracle, but the run's is heuristic (policy.name)"),
    "an unknown version": ({"version": "2"}, "version 2 of policy heuristic is not known here; known: 1"),
    "an unknown site": ({"site": "z"}, "at boundary 10"),
    "an unknown blueprint": ({"blueprint": "monster@1"}, "germinate monster@1 a was not allowed"),
    "a blueprint that does not fit": ({"blueprint": BLUEPRINTS[2]}, "was not allowed at boundary 10"),
    "an unknown action": ({"action": "explode"}, "explode"),
    "another seed": ({"seed": "a#7"}, "it names seed a#7, where boundary 10 has a#1"),
    "no seed": ({"seed": None}, "it names seed none"),
    "a wait at a site": ({"action": "wait"}, "was not allowed"),
    "a forged propensity": ({"propensity": 0.5}, "propensity 0.5 is not that of its alternative"),
    "no propensity": ({"propensity": float("nan")}, "propensity nan"),
    "no alternatives": ({"alternatives": ()}, "add up to 0, not 1"),
    "a long reason": ({"reason": "x" * 5000}, "longer than 4000"),
    "a long issuer": ({"issuer": "x" * 500}, "200 characters at most"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_proposal_that_is_not_one_is_rejected_with_the_reason(wrong: str) -> None:
    fields, said = WRONG[wrong]
    play = Play()
    first = play.at(10)
    play.mail.put(replace(first, **fields))
    play.reach(20)
    rejected, missed = play.answers()
    assert told([rejected, missed]) == [("10/1", "invalid"), ("10/1", "late")]
    assert isinstance(rejected, DecisionRejected)
    assert said in rejected.detail
    assert len(rejected.issuer or "") <= 200
    assert rejected.site in ("a", None)


def test_forged_alternatives_are_found() -> None:
    play = Play()
    proposal = play.reach(10)
    due = play.state
    first, *others = proposal.alternatives
    for alternatives, said in [
        ((first, first, *others), "listed twice"),
        ((replace(first, action="explode"), *others), "was not allowed"),
        ((replace(first, score=float("inf")), *others), "a score is not finite"),
        ((replace(first, propensity=-0.1), *others), "not a probability"),
        ((replace(first, propensity=float("nan")), *others), "not a probability"),
        ((replace(first, propensity=1.0), *others), "add up to"),
        ((first,) * 10_001, "more than 10000"),
    ]:
        found = objection(replace(proposal, alternatives=alternatives), due, play.state)
        assert found is not None
        assert found.reason == "invalid"
        assert said in found.detail
    assert objection(proposal, due, play.state) is None


def test_a_germination_is_stale_when_the_rules_forbid_it_by_now() -> None:
    play = Play("policy.seeds=1", "policy.exploration=0")
    proposal = play.reach(10)
    due = play.state
    play.history.germinate("b")
    pending = Objection("stale", "seed b#1 was decided meanwhile and waits to be born")
    assert objection(proposal, due, play.state) == pending
    play.history.born(10)
    found = objection(proposal, due, play.state)
    assert found is not None
    assert found.detail.startswith("the run's rules no longer allow a seed of")


def test_a_seed_has_the_name_that_is_next_or_none() -> None:
    play = Play("policy.exploration=0", "policy.embargo=1")
    proposal = play.reach(10)
    due = play.state
    play.history.move(play.history.grown("a", 10), "CULLED", 10)
    play.history.boundary(20)
    assert objection(proposal, due, play.state) == Objection("stale", "the next seed at a is a#2 by now")


def test_misses_count_in_a_row_only() -> None:
    play = Play()
    play.at(10)
    for step in (20, 50, 80):
        play.at(step)  # a miss
        proposal = play.at(step + 10)  # another
        play.at(step + 20, proposal)
    assert play.mail.waited == 6


@pytest.fixture(scope="module")
def grown() -> list[Event]:
    """A remote run by the rules that grew: with misses, and proposals that were late, stale, wrong or the second."""
    return simulate(random.Random(19), 60, "decision.where=remote", "policy.seeds=30", "policy.embargo=30").events


def test_verify_computes_a_remote_runs_decisions_again(grown: list[Event]) -> None:
    report = verify(RUN, grown)
    assert report.findings == ()
    made = sum(isinstance(event.content, DecisionMade) for event in grown)
    assert report.counts["decisions"] == report.counts["observations"] == made > 20
    assert report.counts["unknown_policy"] == 0
    why = {event.content.reason for event in grown if isinstance(event.content, DecisionRejected)}
    assert why == {"late", "stale", "invalid", "second", "kernel"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("observation", "0"), ("reason", "other"), ("propensity", 0.5), ("decision", "70/1"), ("issuer", None)],
)
def test_verify_finds_a_remote_decision_that_was_changed(grown: list[Event], field: str, value: Any) -> None:
    place = find(grown, DecisionMade, action="germinate")
    findings = verify(RUN, changed(grown, place, **{field: value})).findings
    assert [each.sequence for each in findings] == [place + 1]


def test_verify_finds_a_decision_that_nobody_was_asked_for(grown: list[Event]) -> None:
    place = find(grown, runs.BoundaryReached)
    made = grown[find(grown, DecisionMade)]
    (early,) = later([Event(made.envelope, replace(made.content, step=10))], place + 1 - grown.index(made))
    found = verify(RUN, [*grown[: place + 1], early]).findings[-1]
    assert (found.sequence, found.what) == (place + 2, "it is DecisionMade, which nothing calls for here")


def test_why_tells_who_proposed_a_seed_and_what_was_seen_then(grown: list[Event]) -> None:
    place = find(grown, DecisionMade, action="germinate")
    made = grown[place].content
    assert isinstance(made, DecisionMade)
    about = int(made.decision.partition("/")[0])
    chain = explain(grown, made.seed or "")
    assert [(link.step, link.kind) for link in chain][:2] == [(about, "measurements"), (made.step, "decision")]
    assert f"tamiyo/heuristic/1 proposed it about step {about}: heuristic 1 chose" in render(chain)
