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
