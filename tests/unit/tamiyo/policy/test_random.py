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


def test_each_of_seed_step_and_purpose_makes_another_number_and_no_two_run_together() -> None:
    asked = [(1, 25, "explore"), (2, 25, "explore"), (1, 26, "explore"), (1, 25, "other"), (12, 5, "explore")]
    assert len({uniform(*each) for each in asked}) == len(asked)
    assert uniform(*asked[0]) == uniform(1, 25, "explore")


def test_a_number_has_53_bits() -> None:
    assert all((uniform(0, step, "bits") * (1 << 53)).is_integer() for step in range(100))
    assert any((uniform(0, step, "bits") * (1 << 53)) % 2 for step in range(100))
