"""What a run is told to do: the arithmetic, and that nothing is said without numbers."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from esper.events import runs
from esper.kasmina import verdict
from esper.settings import VerdictSettings
from esper.tamiyo.advice import advise, course_of
from esper.tamiyo.advice.outlook import outlook
from esper.tamiyo.advice.seeds import examples_needed, slope
from tests.support.runs.histories import Simulation, simulate


def judged(rng: random.Random, gain: float, s: float, noise: float, n: int, z: float, threshold: float) -> bool:
    """A verdict on made-up examples: each of ``n`` gains has the spread ``s``, each measurement the noise ``noise``."""

    def measured() -> float:
        return gain + rng.gauss(0, noise) + rng.gauss(0, s / math.sqrt(n))

    others = [measured() for _ in range(5)]
    return verdict.bound(measured(), s, n, stdev(others), z) > threshold


@pytest.mark.parametrize(
    ("gain", "s", "noise"), [(0.03, 0.2, 0.0), (0.01, 0.1, 0.001), (0.05, 0.5, 0.005), (0.004, 0.03, 0.0004)]
)
def test_the_examples_that_are_said_to_be_needed_are_those_that_a_simulation_needs_within_a_factor_of_two(
    gain: float, s: float, noise: float
) -> None:
    z, threshold, n = verdict.z_value(0.05, 1), 0.002, 40
    said = examples_needed(gain, s, n, math.sqrt(s * s / n + noise * noise), z, threshold)
    assert said is not None
    rng = random.Random(5)

    def passes(examples: int) -> float:
        return fmean(judged(rng, gain, s, noise, examples, z, threshold) for _ in range(2000))

    needed = next(count for count in (int(10 * 1.1**k) for k in range(120)) if passes(count) >= 0.5)
    assert said / 2 <= needed <= said * 2


def test_no_number_of_examples_helps_a_gain_that_is_too_small_or_too_noisy() -> None:
    assert examples_needed(0.001, 0.1, 100, 0.01, 2.0, 0.002) is None
    assert examples_needed(0.03, 0.1, 10_000, 0.05, 2.0, 0.002) is None


def test_a_slope_has_its_standard_error() -> None:
    rng = random.Random(3)
    points = [(50 * k, k % 3, 0.001 * 50 * k + k % 3 + rng.gauss(0, 0.002)) for k in range(20)]
    line = slope(points)
    assert line is not None
    assert abs(line.slope - 0.001) < 4 * line.error
    assert slope(points[:3]) is None
    assert slope([(k, 0, math.nan) for k in range(9)]) is None
    assert slope([(7, 0, 0.1)] * 9) is None
    assert slope([(k, k, 0.1) for k in range(9)]) is None


@pytest.mark.parametrize("seed", range(20))
def test_no_change_is_what_is_set_already_and_none_is_advised_who_wants_no_seeds(seed: int) -> None:
    used_up = simulate(random.Random(seed), 30, "policy.seeds=1").state
    for finding in advise(used_up):
        assert "policy.renewal=20000" not in finding.change
    names = {finding.name for finding in advise(used_up)}
    assert not ("no gain so far" in names and "seeds used up" in names)
    unwanted = simulate(random.Random(seed), 30, "policy.seeds=0").state
    assert advise(unwanted) == ()
    assert advise(replace(unwanted, gate=None)) == ()
    if unwanted.status == "running":
        assert outlook(unwanted) == "no seeds wanted (policy.seeds=0)"


@pytest.mark.parametrize("seed", range(40))
def test_any_run_can_be_advised_and_is_advised_the_same_again(seed: int) -> None:
    history = simulate(random.Random(seed), 30, "policy.seeds=5")
    found = advise(history.state, course_of(history.events))
    assert found == advise(history.state, course_of(history.events))
    for each in found:
        assert each.what
        assert each.change
        assert "\n" not in each.what + each.change
        assert all(math.isfinite(value) for value in each.numbers.values())
    assert len({each.name for each in found}) == len(found)


def test_a_run_of_which_only_the_beginning_is_there_is_advised() -> None:
    made = Simulation(random.Random(1))
    assert isinstance(made.history.events[0].content, runs.RunStarted)
    state = replace(made.history.state, sites=None)
    assert advise(state) == ()
    assert VerdictSettings().delta == 0.002
