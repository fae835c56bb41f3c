"""Alpha schedules and the learning rate of seeds."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.kasmina.seed.alpha import Schedule, alpha, rate_factor
from esper.kasmina.seed.stages import Stage
from esper.settings import Blending, Settings, Training

schedules = st.sampled_from(get_args(Schedule))
SETTINGS = Settings(training=Training(learning_rate=3.0, warmup=10), blending=Blending(steps=20, holding_steps=30))


@given(schedules, st.integers(1, 5_000), st.data())
def test_alpha_rises_from_above_zero_to_exactly_one(schedule: Schedule, total: int, data: st.DataObject) -> None:
    done = data.draw(st.integers(1, total))
    value = alpha(schedule, done, total)
    assert 0 < value <= 1
    assert (value == 1.0) == (done == total)
    assert alpha(schedule, done - 1, total) < value
    assert alpha(schedule, total + 7, total) == 1.0


@given(schedules, st.integers(1, 10**9))
def test_the_first_blended_step_has_an_effect_however_long_the_blend(schedule: Schedule, total: int) -> None:
    assert alpha(schedule, 1, total) > 0
    assert alpha(schedule, 0, total) == 0.0


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_every_schedule_is_half_way_at_half_time(schedule: Schedule) -> None:
    assert alpha(schedule, 50, 100) == pytest.approx(0.5)


def test_the_schedules_have_their_shapes() -> None:
    assert alpha("linear", 25, 100) == 0.25
    assert alpha("cosine", 25, 100) == pytest.approx((1 - math.cos(math.pi / 4)) / 2)
    logistic = [1 / (1 + math.exp(-12 * (x - 0.5))) for x in (0.25, 0.0, 1.0)]
    expected = (logistic[0] - logistic[1]) / (logistic[2] - logistic[1])
    assert alpha("sigmoid", 25, 100) == pytest.approx(expected)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="quadratic"):
        alpha("quadratic", 1, 2)  # type: ignore[arg-type]


def test_a_seed_warms_up_then_decays_to_its_hosts_rate_by_the_end_of_holding() -> None:
    training = [rate_factor(SETTINGS, Stage.TRAINING, age, 0) for age in range(100)]
    assert training[0] == pytest.approx(0.3)
    assert training[9] == training[99] == 3.0
    assert training == sorted(training)
    after = [rate_factor(SETTINGS, Stage.BLENDING if step < 20 else Stage.HOLDING, 100, step) for step in range(60)]
    assert after[0] == 3.0
    assert after[25] == pytest.approx(2.0)
    assert after[50:] == [1.0] * 10
    assert after == sorted(after, reverse=True)


def test_a_fossil_learns_like_its_host_and_a_culled_seed_not_at_all() -> None:
    assert rate_factor(SETTINGS, Stage.FOSSILISED, 3, 0) == 1.0
    with pytest.raises(ValueError, match="CULLED"):
        rate_factor(SETTINGS, Stage.CULLED, 3, 0)


def test_a_seed_that_blends_before_its_warm_up_is_over_starts_from_where_it_was() -> None:
    assert rate_factor(SETTINGS, Stage.BLENDING, 0, 0) == rate_factor(SETTINGS, Stage.TRAINING, 0, 0)
