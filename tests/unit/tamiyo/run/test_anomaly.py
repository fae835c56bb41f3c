"""Which losses are alarming."""

from __future__ import annotations

from esper.tamiyo.run.anomaly import alarm


def test_a_spike_is_an_alarm_only_after_five_losses() -> None:
    assert alarm((), 6) is None
    assert alarm((1, 1.1, 0.9, 1, 9), 6) is None
    assert alarm((1, 1.1, 0.9, 1, 1.05, 9), 6) is not None
    assert alarm((1, 1.1, 0.9, 1, 1.05, 1.3), 6) is None


def test_a_constant_loss_makes_no_small_change_an_alarm() -> None:
    assert alarm((*[1.0] * 10, 1.005), 6) is None
    assert alarm((*[1.0] * 10, 1.007), 6) is not None
    assert alarm((*[0.0] * 10, 0.1), 6) is not None
    assert alarm((0.0,) * 11, 6) is None


def test_losses_that_are_not_finite_are_alarms_but_no_yardstick() -> None:
    assert alarm((float("nan"),), 6) == "the loss is nan"
    assert alarm((1, 1.1, float("inf"), 0.9, 1, 1.05, 1.1), 6) is None


def test_an_alarm_says_its_numbers() -> None:
    assert alarm((1, 1, 1, 1, 1, 2), 6) == "the loss 2 is 1e+03 standard deviations above the recent mean 1"
    assert alarm((0, 2, 0, 2, 0, 2, 9), 6) == "the loss 9 is 8 standard deviations above the recent mean 1"
    assert alarm((0.0,) * 5 + (0.1,), 6) == "the loss 0.1 is above 0, at which it stood"


def test_a_loss_is_alarming_only_above_as_many_deviations_as_are_asked_for() -> None:
    around = (0, 2, 0, 2, 0, 2)
    assert alarm((*around, 7), 6) is None
    assert alarm((*around, 7.01), 6) == "the loss 7.01 is 6.01 standard deviations above the recent mean 1"
    assert alarm((*around, 7.01), 7) is None
    assert alarm((*around, -100), 6) is None


def test_a_loss_whose_square_is_no_number_is_as_bad_as_one_that_is_none() -> None:
    assert alarm((1e154,), 6) == "the loss is 1e+154"
    assert alarm((-1e154,), 6) == "the loss is -1e+154"
    assert alarm((1, 1, 1, 1, 1e154, 9), 6) is None  # it is no yardstick: too few are left
