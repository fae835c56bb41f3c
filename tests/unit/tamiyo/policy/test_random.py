"""The policies' random numbers depend on what they are asked for, and on nothing else."""

from __future__ import annotations

import pytest

from esper.tamiyo.policy.random import uniform


def test_the_counter_based_generator_is_uniform_and_the_same_everywhere() -> None:
    numbers = [uniform(seed, step, "explore") for seed in range(40) for step in range(50)]
    assert len(set(numbers)) == 2000
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / 2000 == pytest.approx(0.5, abs=0.03)
    assert uniform(1, 25, "explore") == 0.6020266038702392
    assert uniform(1, 25, "explore") != uniform(1, 25, "other")
