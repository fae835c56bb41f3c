"""Keep or cull: the gates' arithmetic, pure and without torch, so that anyone can compute a verdict again.

Every gate fails closed: a number that is missing or not finite is a no, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist, stdev

from esper.events.runs import Evidence, Trial
from esper.settings import VerdictSettings


def z_value(alpha: float, j: int) -> float:
    """The one-sided normal quantile of the ``j``-th verdict of a run, j from 1.

    Verdict j has the level alpha * 6 / (pi**2 * j**2); these add up to ``alpha`` over any number of verdicts.
    """
    return -NormalDist().inv_cdf(alpha * 6 / (math.pi**2 * j**2))


def bound(mean: float, s: float, n: int, sigma: float, z: float) -> float:
    """mean - z * sqrt(s**2 / n + sigma**2): the lower bound of a gain, or the upper one for a negative ``z``."""
    return mean - z * math.sqrt(s * s / n + sigma * sigma)


def sigma_of(trial_means: Sequence[float]) -> float:
    """The training noise: the sample standard deviation of the mean gains of isolated measurements."""
    return stdev(trial_means)


def judge(
    *,
    gains_mean: float | None,
    s: float | None,
    n: int,
    fold: int,
    trials: Sequence[Trial],
    z: float,
    settings: VerdictSettings,
    parameters: int,
    folds: int,
) -> Evidence:
    """Whether a seed may be blended: the lower bound of its gain must exceed ``delta`` and the rent.

    ``gains_mean`` and ``s`` are the mean and standard deviation of loss(alpha = 0) - loss(alpha = 1) over the ``n``
    examples of ``fold``. ``trials`` are the seed's isolated measurements, oldest first; those on ``fold`` are left
    out, so that no example speaks twice. ``z`` is this verdict's ``z_value``, ``parameters`` what the seed adds. A seed
    that passes is audited on the next fold.
    """
    noise = [trial.mean for trial in trials if trial.fold != fold][-settings.measurements :]
    enough = len(noise) == settings.measurements
    evidence = Evidence(
        passed=False,
        reason="",
        fold=fold,
        n=n,
        mean=_finite(gains_mean),
        s=_finite(s),
        sigma=_finite(sigma_of(noise)) if enough and _all_finite(noise) else None,
        z=z,
        delta=settings.delta,
        rent=settings.rent * parameters,
        gradient_norm=_finite(trials[-1].gradient_norm) if trials else None,
    )
    if not enough:
        reason = f"{len(noise)} isolated measurements on other folds, {settings.measurements} are needed"
        return replace(evidence, reason=reason)
    if evidence.gradient_norm is None:
        return replace(evidence, reason="the seed's gradient is not finite")
    evidence = _decided(evidence)
    return replace(evidence, audit_fold=(fold + 1) % folds) if evidence.passed else evidence


def audit(
    mean_difference: float | None,
    s: float | None,
    n: int,
    fold: int,
    z: float,
    settings: VerdictSettings,
    ablation: float | None = None,
) -> Evidence:
    """Whether a blended seed may stay: the host must not be significantly worse than the checkpoint from when
    blending began.

    ``mean_difference`` and ``s`` are of loss(reference) - loss(now) over the ``n`` examples of ``fold``. ``z``, the
    normal quantile of ``settings.alpha``, is negative, which makes ``bound`` the upper one; it must not be below
    ``delta``, here -``settings.delta``.
    ``ablation`` is logged and decides nothing.
    """
    return _decided(
        Evidence(
            passed=False,
            reason="",
            fold=fold,
            n=n,
            mean=_finite(mean_difference),
            s=_finite(s),
            sigma=0.0,
            z=z,
            delta=-settings.delta,
            ablation=_finite(ablation),
        )
    )


def _decided(evidence: Evidence) -> Evidence:
    """``evidence`` with the bound and the answer that its other numbers give. Only a verdict has a rent."""
    mean, s, n, sigma, z = evidence.mean, evidence.s, evidence.n, evidence.sigma, evidence.z
    if n is None or n < 2:
        return replace(evidence, passed=False, bound=None, reason=f"{n} gate examples, at least 2 are needed")
    if mean is None or s is None or sigma is None or z is None or evidence.delta is None:
        names = ", ".join(name for name in ("mean", "s", "sigma", "z", "delta") if getattr(evidence, name) is None)
        return replace(evidence, passed=False, bound=None, reason=f"not measured or not finite: {names}")
    value, delta = bound(mean, s, n, sigma, z), evidence.delta
    if not math.isfinite(value):
        return replace(evidence, passed=False, bound=None, reason="the bound is not finite")
    if evidence.rent is None:
        passed = value >= delta
        reason = f"upper bound {value:.3g} of the change {'is not' if passed else 'is'} below {delta:.3g}"
    else:
        threshold = delta + evidence.rent
        passed = value > threshold
        reason = f"lower bound {value:.3g} of the gain {'exceeds' if passed else 'does not exceed'} {threshold:.3g}"
    return replace(evidence, passed=passed, reason=reason, bound=value)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _all_finite(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in values)
