"""Pauses between attempts: they double up to a bound, have jitter, and touch no generator of the training's."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from esper.system.backoff import JITTER, Backoff

seconds = st.floats(1e-4, 100.0)


class Middle(random.Random):
    """No jitter."""

    def random(self) -> float:
        return 0.5


@given(seconds, seconds, st.integers(1, 100))
def test_without_jitter_pauses_double_from_the_first_to_the_longest(one: float, other: float, times: int) -> None:
    first, longest = sorted((one, other))
    backoff = Backoff(first, longest, Middle())
    pauses = [backoff.pause() for _ in range(times)]
    assert pauses[0] == first
    assert all(later == min(2 * pause, longest) for pause, later in pairwise(pauses))
    assert backoff.failures == times


@given(seconds, seconds, st.integers(1, 30), st.integers(0, 1 << 32))
def test_each_pause_is_off_the_due_one_by_no_more_than_the_jitter(one: float, other: float, times: int, s: int) -> None:
    first, longest = sorted((one, other))
    backoff, exact = Backoff(first, longest, random.Random(s)), Backoff(first, longest, Middle())
    for _ in range(times):
        pause, due = backoff.pause(), exact.pause()
        assert due * (1 - JITTER) <= pause <= due * (1 + JITTER)


@given(st.integers(0, 1 << 32), st.integers(0, 50))
def test_after_a_success_it_begins_anew_and_chance_alone_tells_two_apart(seed: int, failures: int) -> None:
    backoff = Backoff(0.1, 10.0, random.Random(seed))
    for _ in range(failures):
        backoff.pause()
    backoff.reset()
    assert backoff.failures == 0
    chance = random.Random(seed)
    for _ in range(failures):
        chance.random()
    fresh = Backoff(0.1, 10.0, chance)
    assert [backoff.pause() for _ in range(9)] == [fresh.pause() for _ in range(9)]


def test_the_pauses_of_two_who_wait_differ_and_the_process_generator_is_left_alone() -> None:
    before = random.getstate()
    one, other = Backoff(1.0, 8.0), Backoff(1.0, 8.0)
    assert [one.pause() for _ in range(4)] != [other.pause() for _ in range(4)]
    assert random.getstate() == before


def test_any_number_of_failures_has_a_pause() -> None:
    backoff = Backoff(0.1, 10.0, Middle())
    assert {backoff.pause() for _ in range(5000)} == {0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0}
