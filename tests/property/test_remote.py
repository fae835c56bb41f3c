"""Whatever is proposed to a run, its trainer answers each proposal once, makes one decision at most, and goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.events.runs import Alternative, DecisionMade, DecisionRejected
from esper.events.signals import DecisionProposed
from tests.support.runs.deciding import Play
from tests.support.runs.histories import BLUEPRINTS

numbers = st.one_of(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.floats(width=64))
texts = st.one_of(st.sampled_from(["a", "b", "wait", "germinate", "", "a#1", "x" * 5000]), st.text(max_size=8))
names = st.one_of(st.none(), texts, st.sampled_from(BLUEPRINTS))
alternatives = st.lists(
    st.builds(Alternative, action=texts, site=names, blueprint=names, score=numbers, propensity=numbers), max_size=3
).map(tuple)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "step": st.one_of(st.integers(-1, 8).map(lambda n: 10 * n), st.integers(-(2**63), 2**63 - 1)),
    "policy": texts,
    "version": texts,
    "observation": texts,
    "action": texts,
    "site": names,
    "blueprint": names,
    "seed": names,
    "propensity": numbers,
    "alternatives": alternatives,
    "reason": texts,
    "issuer": texts,
    "nonce": texts,
}
changes = st.lists(st.sampled_from(sorted(FIELDS)), max_size=3, unique=True).flatmap(
    lambda chosen: st.fixed_dictionaries({name: FIELDS[name] for name in chosen})
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(changes, max_size=4), min_size=2, max_size=6), st.integers(1, 3), st.booleans())
def test_no_set_of_proposals_stops_a_run(sent: list[list[dict[str, Any]]], lag: int, births: bool) -> None:
    play = Play(f"decision.lag={lag}")
    known: dict[Any, DecisionProposed] = {}
    answered: list[Any] = []
    last: list[DecisionProposed] = []
    for number, fields in enumerate(sent, 1):
        for proposal in (replace(base, **each) for base in last for each in fields):
            if (proposal.issuer, proposal.nonce) not in known:  # the inbox lets the first of an id through
                known[proposal.issuer, proposal.nonce] = proposal
                play.mail.put(proposal)
        last = [*last, play.reach(10 * number)][-lag:]
        if births and play.state.pending is not None:
            play.history.born(10 * number)
        answers = play.answers()
        assert sum(isinstance(each, DecisionMade) for each in answers) <= 1
        due = [each for each in answers if each.decision == f"{10 * (number - lag)}/1"]
        assert bool(due) or number <= lag
        assert all(isinstance(each, DecisionMade | DecisionRejected) for each in answers)
        added = play.history.events[len(play.history.events) - len(answers) :]
        answered += [cause for event in added for cause in event.envelope.causes]
    assert len(answered) == len(set(answered)) <= len(known)
