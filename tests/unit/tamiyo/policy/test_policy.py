"""Chances of the actions that a policy may take."""

from __future__ import annotations

import pytest

from esper.tamiyo.policy.policy import drawn, propensities


def test_propensities_are_the_lengths_of_what_is_drawn() -> None:
    odds = propensities(4, 2, 0.4)
    assert odds == pytest.approx([0.1, 0.1, 0.7, 0.1])
    assert [drawn(odds, 2, at) for at in (0.0, 0.69, 0.71, 0.81, 0.91, 0.9999999999999999)] == [2, 2, 0, 1, 3, 3]
