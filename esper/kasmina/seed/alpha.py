"""Schedules of a seed: alpha, the share of its effect that is added to the host, and its learning rate. Pure; no
torch."""

from __future__ import annotations

import math
from typing import Literal

from esper.kasmina.seed.stages import Stage
from esper.settings import Settings

Schedule = Literal["linear", "cosine", "sigmoid"]

STEEPNESS = 6.0  # of the sigmoid, whose ends are stretched to 0 and 1


def alpha(schedule: Schedule, done: int, total: int) -> float:
    """The share of a seed's effect in its ``done``-th blended step of ``total``, counted from 1.

    Never falls, is above 0 from the first step on (a zero output under alpha = 0 would never learn) and exactly 1
    from step ``total`` on. 0 when nothing is done.
    """
    if done >= total:
        return 1.0
    if done <= 0:
        return 0.0
    share = done / total
    if schedule == "linear":
        return share
    if schedule == "cosine":
        return min(1.0, math.sin(math.pi / 2 * share) ** 2)
    if schedule == "sigmoid":
        return min(1.0, _sigmoid(share))
    raise ValueError(f"blending.schedule {schedule!r} is not linear, cosine or sigmoid")


def _sigmoid(share: float) -> float:
    """(f(share) - f(0)) / (f(1) - f(0)) for the logistic f around 1/2, in a form that cancels nothing near 0."""
    k = STEEPNESS
    return math.sinh(k * share) * math.cosh(k / 2) / (math.cosh(k * (share - 0.5)) * math.sinh(k))


def rate_factor(settings: Settings, stage: Stage, age_in_training: int, steps_since_blending: int) -> float:
    """A seed's learning rate as a multiple of its host group's.

    ``age_in_training`` counts the updates that it had in TRAINING, ``steps_since_blending`` those since. The factor
    rises to ``training.learning_rate`` over ``training.warmup`` updates, then falls linearly from blending on and is
    1 by the end of holding and for ever after.
    """
    if stage is Stage.FOSSILISED:
        return 1.0
    warm = settings.training.learning_rate * min(1.0, (age_in_training + 1) / settings.training.warmup)
    if stage is Stage.TRAINING:
        return warm
    if stage not in (Stage.BLENDING, Stage.HOLDING):
        raise ValueError(f"a seed does not learn while {stage}")
    done = min(1.0, steps_since_blending / (settings.blending.steps + settings.blending.holding_steps))
    return 1.0 if done == 1.0 else warm + (1.0 - warm) * done
