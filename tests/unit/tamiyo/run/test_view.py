"""The run view's pieces, without a broker: what they hold, how large they become, and what stops them."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from esper.events import Event, runs
from esper.events.topics import RUNS
from esper.log.port import Entry, Position
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import MEASUREMENTS, RunState
from esper.tamiyo.run.view import LARGEST, LIKELIEST, RunView, packed, same, short, unpacked
from tests.support.logs.records import record_of_event
from tests.support.runs.histories import RUN, History, simulate, table

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def entry(event: Event, offset: int) -> Entry:
    return Entry(Position(RUNS, 0, offset), NOW, record_of_event(event))


def entries(events: list[Event]) -> list[Entry]:
    return [entry(event, 2 * number) for number, event in enumerate(events)]


def view() -> RunView:
    return RunView(RUN, lambda entry, error: None)


def pieces_at_the_end(events: list[Event]) -> dict[str, bytes]:
    """What a table holds that was told each change."""
    following = view()
    kept: dict[str, bytes | None] = {}
    for each in entries(events):
        kept |= following.take(each)[1]
    return {key: value for key, value in kept.items() if value is not None}


@pytest.mark.parametrize("seed", range(5))
def test_each_piece_carries_the_state_s_digest_at_its_event(seed):
    history = simulate(random.Random(seed), 25)
    state, following = RunState(RUN), view()
    for each in entries(history.events):
        event, changed = following.take(each)
        assert event is not None
        state = fold(state, (event,))
        assert list(changed)[-1] == RUN  # the head last
        for value in changed.values():
            piece = unpacked(value)
            if value is not None:
                assert piece is not None
                assert (piece["sequence"], piece["digest"]) == (state.sequence, state.digest_of_state())


def test_a_piece_that_an_older_fold_made_is_compared_without_its_digest() -> None:
    kept = pieces_at_the_end(simulate(random.Random(1), 5).events)
    for value in kept.values():
        piece = json.loads(value)
        older = {name: piece[name] for name in ("sequence", "state")} | {"digest": "another"}
        assert same(packed(older), value)
        assert not same(packed(older | {"fold": piece["fold"]}), value)
        assert not same(packed(older | {"sequence": piece["sequence"] + 1}), value)
        assert not same(packed(older | {"state": {}}), value)
    assert same(None, None)
    assert not same(None, packed(piece))


@pytest.mark.parametrize("seed", range(5))
def test_pieces_kept_along_the_way_are_those_of_the_state_at_the_end(seed):
    """After rollbacks and culls no piece of a seed that is gone is left, and none is stale."""
    history = simulate(random.Random(seed), 25)
    kept = pieces_at_the_end(history.events)
    seeds = {key for key in kept if key.startswith(f"{RUN}/seed/") and "stage" in (unpacked(kept[key]) or {})["state"]}
    assert seeds == {f"{RUN}/seed/{name}" for name in history.state.seeds}
    for name, seed_state in history.state.seeds.items():
        told = [value for key, value in kept.items() if key.startswith(f"{RUN}/seed/{name}/transitions/")]
        moves = [move for value in told for move in json.loads(value)["state"]["items"]]
        assert [move["to_stage"] for move in moves] == [t.to_stage for t in seed_state.transitions]
    health = history.state.health
    for number, name in enumerate("abcd"):
        row = json.loads(kept[f"{RUN}/health/0"])["state"]["gradient_to_weight"][number]
        assert row == health.get(name, {}).get("gradient_to_weight")


def test_ten_thousand_sites_and_decisions_stay_in_small_pieces():
    names = tuple(f"blocks.{n // 10}.attention.heads.{n % 10}.projection" for n in range(10_000))
    history = History(sites=table(*names))
    rng = random.Random(0)
    following = view()
    for each in entries(history.events):
        following.take(each)
    alternatives = tuple(
        runs.Alternative(action="germinate", site=name, blueprint="b", score=0.1, propensity=1e-4)
        for name in names[:500]
    )
    largest, spent = 0, []
    for number in range(1, 161):
        first = 64 * (number - 1) % len(names)
        sites = tuple(sorted((first + n) % len(names) for n in range(64)))
        measured = runs.Health(site=sites, **{m: tuple(rng.random() for _ in sites) for m in MEASUREMENTS})
        events = [history.boundary(10 * number, health=measured)]
        made = {"policy": "p", "version": "1", "observation": "", "site": None, "blueprint": None, "seed": None}
        decision = runs.DecisionMade(
            decision=f"{number}/1",
            step=10 * number,
            action="wait",
            propensity=1.0,
            alternatives=alternatives,
            reason="because " * 2000,
            **made,
        )
        events.append(history.add(decision))
        for event in events:
            given = entry(event, 2 * (event.envelope.sequence or 0))
            began = time.process_time()
            _, changed = following.take(given)
            spent.append(time.process_time() - began)
            largest = max(largest, *(len(value or b"") for value in changed.values()))
            assert len(changed) <= 6
    kept = pieces_at_the_end(history.events)
    assert max(map(len, kept.values())) < LARGEST
    assert largest < LARGEST
    assert len([key for key in kept if "/sites/" in key]) == len([key for key in kept if "/health/" in key]) == 157
    assert len(json.loads(kept[f"{RUN}/decision/{history.state.sequence}"])["state"]["likeliest"]) == LIKELIEST
    # A digest of the whole state, made anew for each event, takes some 150 ms here.
    assert sorted(spent)[len(spent) // 2] < 0.03


def test_texts_of_any_size_and_kind_stay_in_small_pieces():
    history = History()
    history.add(runs.AlertRaised(step=1, kind="k" * 100_000, detail="\x00é\U0001f600" * 50_000, value=None))
    history.add(runs.RunFailed(step=1, cause='\\"' * 100_000))
    kept = pieces_at_the_end(history.events)
    assert max(map(len, kept.values())) < LARGEST


@pytest.mark.parametrize("text", ["", "plain", "\x00" * 1000, "é" * 1000, "\U0001f600" * 1000, "x" * 501])
def test_a_short_text_is_a_beginning_that_fits(text):
    cut = short(text, 500)
    assert cut is not None
    assert text.startswith(cut)
    assert len(json.dumps(cut)) <= 502
    assert short(cut, 500) == cut


def test_new_sites_renew_the_pieces_and_fewer_take_some_away():
    history = History(sites=table(*(f"s{n}" for n in range(130))))
    kept = pieces_at_the_end(history.events)
    assert {f"{RUN}/sites/{n}" for n in range(3)} <= kept.keys()
    history.boundary(10, sites=table("s0", "other"))
    kept = pieces_at_the_end(history.events)
    assert [key for key in kept if "/sites/" in key or "/health/" in key] == [f"{RUN}/sites/0", f"{RUN}/health/0"]


def test_what_comes_again_changes_nothing():
    following, given = view(), entries(simulate(random.Random(1), 5).events)
    for each in given:
        following.take(each)
    assert all(following.take(each) == (None, {}) for each in given)


def test_a_missing_event_stops_the_view_and_its_head_says_which():
    given = entries(simulate(random.Random(1), 5).events)
    following = view()
    for each in given[:4]:
        following.take(each)
    event, changed = following.take(given[5])
    head = unpacked(changed[RUN])
    assert event is None
    assert head is not None
    assert head["sequence"] == 4
    assert head["state"]["quarantine"]["event"] == 5
    assert head["state"]["quarantine"]["position"] == str(given[5].position)
    assert following.take(given[4]) == (None, {})


def test_an_unreadable_event_quarantines_at_its_own_position():
    given = entries(simulate(random.Random(1), 5).events)
    unreadable = replace(given[4], error="no such schema")
    told: list[Entry] = []
    following = RunView(RUN, lambda entry, error: told.append(entry))
    for each in (*given[:4], unreadable):
        _, changed = following.take(each)
    head = unpacked(changed[RUN])
    assert told == [unreadable]
    assert head is not None
    assert head["state"]["quarantine"]["kind"] == "unreadable"
    assert head["state"]["quarantine"]["position"] == str(unreadable.position)


def test_an_event_that_cannot_have_happened_stops_the_view():
    history = History()
    given = entries(history.events)
    wrong = runs.SeedTransitioned(
        site="a",
        seed="a#1",
        blueprint="b",
        kernel="k",
        from_stage="TRAINING",
        to_stage="BLENDING",
        step=1,
        cause="gate",
        gate=None,
        evidence=None,
    )
    sequence = history.state.sequence + 1
    envelope = replace(history.events[-1].envelope, sequence=sequence)
    following = view()
    for each in (*given, entry(Event(envelope, wrong), 100)):
        _, changed = following.take(each)
    head = unpacked(changed[RUN])
    assert head is not None
    assert head["state"]["quarantine"]["kind"] == "wrong"


@pytest.mark.parametrize(
    "value", [None, b"", b"{", b"[]", b"{}", b"\xff", b'{"sequence": "1", "state": {}}', b"[" * 100_000, b"1"]
)
def test_nothing_that_lies_in_a_changelog_raises(value):
    assert unpacked(value) is None
