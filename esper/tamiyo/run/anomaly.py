"""Which losses are alarming: those that are not finite, or far above the ones before."""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from statistics import fmean, pstdev

LEAST = 5  # losses that a spike is judged by
LARGEST = 1e153  # of a loss whose square is a number
FLOOR = 1e-3  # of the mean: a constant loss must not make any change a spike


@lru_cache(maxsize=64)  # asked by the rules of a boundary, and by what its policy sees
def alarm(losses: tuple[float, ...], spike: float) -> str | None:
    """Why the last of the boundary ``losses`` is alarming, None if it is not.

    It is when it is not finite, or lies more than ``spike`` standard deviations above the mean of the finite
    ones before it, of which there must be at least five.
    """
    if not losses:
        return None
    last = losses[-1]
    if not isfinite(last) or abs(last) > LARGEST:
        return f"the loss is {last}"
    before = [loss for loss in losses[:-1] if abs(loss) <= LARGEST]
    if len(before) < LEAST:
        return None
    mean = fmean(before)
    deviation = max(pstdev(before, mean), FLOOR * abs(mean))
    if last <= mean + spike * deviation:
        return None
    if deviation == 0:
        return f"the loss {last:.4g} is above {mean:.4g}, at which it stood"
    above = (last - mean) / deviation
    return f"the loss {last:.4g} is {above:.3g} standard deviations above the recent mean {mean:.4g}"
