"""What a site's seeds and failures say about it."""

from __future__ import annotations

import pytest

from esper.tamiyo.run.sites import MAX_DOUBLINGS, embargo_end, failures, next_seed_name
from esper.tamiyo.run.state import Rejection, RunState
from tests.support.runs.histories import History


def rejections(*places: tuple[str, int]) -> RunState:
    """A run in which kernels could not be loaded, at sites and steps."""
    return RunState("a-run", rejections=tuple(Rejection(site, "b", step, "") for site, step in places))


def test_a_cull_is_a_failure_at_its_step_and_other_ends_are_none() -> None:
    history = History("policy.cooldown=0", "training.concurrent=3")
    history.grown("a", 10)
    history.grown("b", 20, "TRAINING", "BLENDING", "HOLDING", "FOSSILISED")
    assert failures(history.state) == {}
    history.move("a#1", "CULLED", 35)
    assert failures(history.state) == {"a": [35]}


def test_every_third_kernel_of_a_site_that_could_not_be_loaded_is_a_failure_at_its_step() -> None:
    assert failures(rejections(("a", 1), ("b", 2), ("a", 3), ("b", 4))) == {}
    assert failures(rejections(("a", 1), ("b", 2), ("a", 3), ("a", 4), ("a", 5), ("a", 6), ("a", 7))) == {"a": [4, 7]}


def test_failures_are_in_the_order_of_their_steps_whatever_they_are() -> None:
    history = History("policy.cooldown=0")
    history.grown("a", 10)
    history.move("a#1", "CULLED", 50)
    state = history.state
    state.rejections = rejections(("a", 1), ("a", 2), ("a", 3)).rejections
    assert failures(state) == {"a": [3, 50]}


@pytest.mark.parametrize(
    ("failed_at", "end"), [([], 0), ([7], 107), ([7, 30], 230), ([7, 30, 31], 431), ([7] * 5, 7 + 1600)]
)
def test_a_site_rests_from_its_last_failure_and_twice_as_long_after_each(failed_at: list[int], end: int) -> None:
    assert embargo_end(failed_at, 100) == end


def test_a_rest_has_an_end() -> None:
    longest = 100 << MAX_DOUBLINGS
    assert embargo_end([0] * (MAX_DOUBLINGS + 1), 100) == embargo_end([0] * 500, 100) == longest


def test_a_seed_is_named_after_all_that_were_ever_born_at_its_site() -> None:
    state = RunState("a-run", born={"a": 2})
    assert [next_seed_name(state, site) for site in ("a", "b")] == ["a#3", "b#1"]
