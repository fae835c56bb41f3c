"""A run's folded state that was kept as bytes goes on exactly as if it had been folded from the first event."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.errors import CorruptArtifact
from esper.events import runs
from esper.tamiyo.policy.observation import digest, observe
from esper.tamiyo.run import snapshot
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.snapshot import Folded, from_bytes, to_bytes
from esper.tamiyo.run.state import MEASUREMENTS, RunState
from tests.property.test_folds import histories
from tests.support.runs.histories import RUN, History, health

some = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def kept(state: RunState) -> RunState:
    return from_bytes(to_bytes(Folded(state, "ab", ""))).state


@some
@given(histories())
def test_a_kept_state_folds_on_to_the_same_digest_from_every_cut(history: History) -> None:
    state = RunState(RUN)
    for cut, event in enumerate(history.events, start=1):
        state = fold(state, (event,))
        again = kept(state)
        assert again == state
        assert again.digest_of_state() == state.digest_of_state()
        assert digest(observe(again, 1)) == digest(observe(state, 1))
        assert fold(again, history.events[cut:]).digest_of_state() == history.state.digest_of_state()


@some
@given(histories(), st.data())
def test_a_state_kept_again_and_again_is_the_same(history: History, data: st.DataObject) -> None:
    state, before = RunState(RUN), 0
    for cut in sorted(data.draw(st.sets(st.integers(1, len(history.events)), max_size=8))):
        state, before = kept(fold(state, history.events[before:cut])), cut
    assert fold(state, history.events[before:]).digest_of_state() == history.state.digest_of_state()


numbers = st.one_of(
    st.none(), st.floats(), st.sampled_from((-0.0, 5e-324, 2.0**53, 1e22, math.inf, -math.inf, math.nan))
)


@given(st.lists(numbers, min_size=3, max_size=3), st.floats(), st.text())
def test_every_number_and_text_comes_back(values: list[float | None], loss: float, text: str) -> None:
    text = text.encode(errors="replace").decode()  # as Avro has it
    history = History()
    shared = health((0, 1), (values[0], values[1]))
    alike = health((2,), (values[2],))
    history.boundary(10, loss=loss, health=shared)
    history.boundary(20, loss=-loss, health=alike)
    history.add(runs.AlertRaised(step=20, kind=text, detail=text, value=loss))
    state = replace(history.state, cause=text, test={text: loss}, learning_rate=loss, answered=frozenset((text, "b")))
    again = kept(state)
    assert again.digest_of_state() == state.digest_of_state()
    assert list(again.measured) == list(state.measured)
    assert again.measured["a"] is again.measured["b"] is not again.measured["c"]
    for name in MEASUREMENTS:
        assert repr(getattr(again.measured["c"], name)) == repr(getattr(alike, name))
    assert repr(again.losses) == repr(state.losses)


def test_records_that_are_equal_but_not_the_same_stay_two() -> None:
    history = History()
    history.boundary(10, health=health((0,), (1.0,)))
    history.boundary(20, health=health((1,), (1.0,)))
    state = history.state
    state = replace(state, measured={**state.measured, "c": replace(state.measured["a"])})
    assert kept(state).digest_of_state() == state.digest_of_state()


def test_many_sites_that_share_a_record_are_kept_in_little_space() -> None:
    names = tuple(f"site {number}" for number in range(2000))
    record = health(tuple(range(2000)), (0.5,) * 2000)
    state = replace(History().state, measured=dict.fromkeys(names, record))
    assert len(to_bytes(Folded(state, "", ""))) < 300_000


def test_what_another_version_kept_or_is_no_state_is_refused(monkeypatch: Any) -> None:
    data = to_bytes(Folded(History().state, "ab", "esper.runs/3:7"))
    assert from_bytes(data) == Folded(History().state, "ab", "esper.runs/3:7")
    for wrong in (
        b"",
        b"{}",
        data[:-1],
        data.replace(b'"sequence":', b'"sequences":'),
        data.replace(b'"link":', b'"":'),
    ):
        with pytest.raises(CorruptArtifact, match="fold the run again"):
            from_bytes(wrong)
    monkeypatch.setattr(snapshot, "version", lambda: "another")
    with pytest.raises(CorruptArtifact, match="another version"):
        from_bytes(data)
