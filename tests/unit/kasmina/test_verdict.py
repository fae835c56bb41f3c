"""The gates' arithmetic."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.events.runs import Evidence, Trial
from esper.kasmina.verdict import audit, bound, judge, sigma_of, z_value
from esper.settings import VerdictSettings

SETTINGS = VerdictSettings(alpha=0.05, delta=0.002, rent=1e-6, measurements=3)


def trial(mean: float, fold: int = 1, gradient: float | None = 1.0) -> Trial:
    return Trial(seed="fc#1", fold=fold, n=100, mean=mean, s=0.1, gradient_norm=gradient)


TRIALS = [trial(0.5), trial(0.02), trial(0.03), trial(0.04)]


def judged(
    mean: float | None = 0.1,
    s: float | None = 0.1,
    n: int = 100,
    fold: int = 0,
    trials: list[Trial] = TRIALS,
    number: int = 1,
    parameters: int = 1000,
) -> Evidence:
    return judge(
        gains_mean=mean,
        s=s,
        n=n,
        fold=fold,
        trials=trials,
        z=z_value(SETTINGS.alpha, number),
        settings=SETTINGS,
        parameters=parameters,
        folds=10,
    )


def test_the_levels_of_all_verdicts_of_a_run_add_up_to_alpha() -> None:
    levels = [1 - NormalDist().cdf(z_value(0.05, j)) for j in range(1, 20_000)]
    assert sum(levels) == pytest.approx(0.05, rel=1e-4)
    assert z_value(0.05, 1) == pytest.approx(NormalDist().inv_cdf(1 - 0.05 * 6 / math.pi**2))
    assert z_value(0.05, 2) > z_value(0.05, 1)


def test_the_bound_is_the_one_of_the_design() -> None:
    assert bound(0.1, 0.4, 100, 0.03, 2.0) == pytest.approx(0.1 - 2 * math.sqrt(0.0016 + 0.0009))


def test_sigma_is_the_sample_standard_deviation() -> None:
    assert sigma_of([1.0, 2.0, 3.0]) == 1.0


def test_a_gain_well_above_the_noise_passes_and_every_number_is_in_the_evidence() -> None:
    evidence = judged()
    z = z_value(0.05, 1)
    assert evidence == Evidence(
        passed=True,
        reason=evidence.reason,
        fold=0,
        n=100,
        mean=0.1,
        s=0.1,
        sigma=pytest.approx(0.01),
        z=z,
        delta=0.002,
        rent=0.001,
        bound=pytest.approx(0.1 - z * math.sqrt(0.01 / 100 + 0.01**2)),
        gradient_norm=1.0,
        audit_fold=1,
    )
    assert "exceeds 0.003" in evidence.reason


def test_the_audit_fold_is_the_next_one_around() -> None:
    assert judged(fold=9).audit_fold == 0


def test_a_gain_that_the_rent_eats_does_not_pass() -> None:
    assert judged(parameters=10_000).passed
    assert not judged(parameters=100_000).passed


def test_later_verdicts_ask_for_more() -> None:
    assert judged(mean=0.04).passed
    assert not judged(mean=0.04, number=30).passed


def test_training_noise_counts_against_a_seed() -> None:
    noisy = [trial(0.1), trial(-0.1), trial(0.1)]
    assert not judged(trials=noisy).passed


def test_only_the_last_measurements_speak() -> None:
    assert judged(trials=[trial(9.0), *TRIALS]).sigma == judged().sigma


def test_measurements_on_the_verdicts_own_fold_are_left_out() -> None:
    own = [trial(5.0, fold=0)]
    assert judged(trials=[*TRIALS, *own]).sigma == judged().sigma
    assert not judged(fold=1).passed
    assert "0 isolated measurements on other folds, 3 are needed" in judged(fold=1).reason


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (judged(trials=[]), "0 isolated measurements"),
        (judged(trials=TRIALS[:2]), "2 isolated measurements"),
        (judged(mean=None), "mean"),
        (judged(mean=math.nan), "mean"),
        (judged(mean=math.inf), "mean"),
        (judged(s=None), "s"),
        (judged(s=math.nan), "s"),
        (judged(s=1e200), "not finite"),
        (judged(n=1), "1 gate examples"),
        (judged(trials=[*TRIALS, trial(math.nan)]), "sigma"),
        (judged(trials=[*TRIALS, trial(0.03, gradient=None)]), "gradient"),
        (judged(trials=[*TRIALS, trial(0.03, gradient=math.inf)]), "gradient"),
    ],
)
def test_the_verdict_fails_closed(evidence: Evidence, reason: str) -> None:
    assert not evidence.passed
    assert evidence.bound is None
    assert evidence.audit_fold is None
    assert reason in evidence.reason


Z = NormalDist().inv_cdf(SETTINGS.alpha)


def test_an_audit_passes_unless_the_host_is_significantly_worse() -> None:
    assert audit(0.1, 0.5, 100, 1, Z, SETTINGS).passed
    assert audit(0.0, 0.0, 100, 1, Z, SETTINGS).passed
    assert audit(-0.05, 0.5, 100, 1, Z, SETTINGS).passed
    assert not audit(-0.2, 0.5, 100, 1, Z, SETTINGS).passed
    evidence = audit(-0.2, 0.5, 100, 1, Z, SETTINGS, ablation=0.3)
    upper = -0.2 + NormalDist().inv_cdf(0.95) * 0.05
    assert (evidence.bound, evidence.delta, evidence.ablation) == (pytest.approx(upper), -0.002, 0.3)


@pytest.mark.parametrize(
    ("mean", "s", "n"), [(None, 0.1, 9), (math.nan, 0.1, 9), (0.1, math.nan, 9), (0.1, 0.1, 1), (0.1, 1e200, 9)]
)
def test_an_audit_without_its_numbers_fails_closed(mean: float | None, s: float, n: int) -> None:
    evidence = audit(mean, s, n, 1, Z, SETTINGS)
    assert not evidence.passed
    assert evidence.bound is None


gains = st.floats(-1, 1, allow_nan=False)


@given(gains, st.floats(0, 2), st.integers(2, 10_000), st.lists(gains, min_size=3, max_size=9), st.integers(1, 50))
def test_a_verdict_follows_from_the_bound_in_its_evidence(
    mean: float, s: float, n: int, means: list[float], number: int
) -> None:
    evidence = judged(mean, s, n, trials=[trial(value) for value in means], number=number)
    assert evidence.sigma == sigma_of(means[-3:])
    assert evidence.z is not None
    assert evidence.bound == bound(mean, s, n, evidence.sigma, evidence.z)
    assert evidence.passed == (evidence.bound > 0.003)
    checked = audit(mean, s, n, 1, Z, SETTINGS)
    assert checked.bound == bound(mean, s, n, 0.0, Z)
    assert checked.passed == (checked.bound >= -0.002)
