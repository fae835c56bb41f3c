"""What the verdicts about seeds say: too early, on too few examples, too noisy, a rate too high, or nothing to gain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from esper.events.runs import Evidence
from esper.tamiyo.advice.finding import Finding
from esper.tamiyo.run.state import RunState, SeedState, settings_of

SURE = 2.0  # standard errors that a slope has to lie from 0
FARTHEST = 10  # times the present training that is still advised
FOLDS = 3  # the fewest that gate data can have
NOT_TOLD = "gain not told"  # is said where no other cause is
JUDGED = 3  # verdicts that have to agree before something is said of the host


class Needed(NamedTuple):
    """Of a verdict: the threshold of its bound, and the mean gain that it would have taken, given its spread."""

    threshold: float
    mean: float


class Line(NamedTuple):
    """A least-squares line: slope per step, and the slope's standard error."""

    slope: float
    error: float


def seeds(state: RunState) -> Iterator[Finding]:
    """Findings about seeds that were judged, each cause once, of the seed that it was clearest for."""
    judged = [(seed, evidence) for seed in state.seeds.values() if (evidence := _verdict(seed)) is not None]
    failed = [(seed, evidence) for seed, evidence in judged if not evidence.passed]
    nothing = [(seed, evidence) for seed, evidence in failed if _no_gain(evidence)]
    if len(nothing) >= JUDGED and len(nothing) == len(judged):
        yield _large_enough(nothing)
        return
    found: dict[str, Finding] = {}
    for seed, evidence in sorted(failed, key=lambda each: -(each[1].mean or 0.0)):
        finding = _about(state, seed, evidence)
        if finding is not None:
            found.setdefault(finding.name, finding)
    untold = found.pop(NOT_TOLD, None)
    yield from found.values()
    if not found and len(failed) == len(judged):
        yield from [untold] if untold is not None else [_none_so_far(failed)] if failed else []


def _verdict(seed: SeedState) -> Evidence | None:
    """The numbers of the seed's verdict, where all of them are there."""
    moved = next((each for each in seed.transitions if each.gate == "verdict" and each.evidence is not None), None)
    found = moved.evidence if moved is not None else None
    parts = (
        () if found is None else (found.mean, found.s, found.n, found.sigma, found.z, found.delta, found.gradient_norm)
    )
    return found if parts and all(part is not None for part in parts) else None


def _about(state: RunState, seed: SeedState, evidence: Evidence) -> Finding | None:
    """Why this seed failed, if its numbers tell."""
    line = slope([(step, trial.fold, trial.mean) for step, trial in seed.trials])
    falls = line is not None and line.slope < -SURE * line.error and (evidence.mean or 0.0) < 0
    if falls or _upper(evidence) < 0:
        return _rate(state, seed, evidence)
    if line is not None and line.slope > SURE * line.error and (later := _later(state, seed, evidence, line)):
        return later
    return _fold(state, seed, evidence)


def needed(evidence: Evidence) -> Needed:
    """What the verdict asked for: mean - z * sqrt(s**2 / n + sigma**2) > delta + rent."""
    assert evidence.s is not None
    assert evidence.n is not None
    assert evidence.sigma is not None
    assert evidence.z is not None
    threshold = (evidence.delta or 0.0) + (evidence.rent or 0.0)
    return Needed(threshold, threshold + evidence.z * math.sqrt(evidence.s**2 / evidence.n + evidence.sigma**2))


def examples_needed(mean: float, s: float, n: int, sigma: float, z: float, threshold: float) -> int | None:
    """The number of gate examples from which mean - z * sqrt(s**2 / n + sigma**2) exceeds ``threshold``, of a verdict
    on ``n``; None if none does: the gain is too small, or what varies from one step to another alone too large.

    ``sigma`` is the spread of mean gains on other folds, so that it has the sampling of a fold in it, s**2 / n, which
    falls with larger folds as the verdict's own does; what is above that stays.
    """
    allowed = (mean - threshold) / z if z > 0 else math.inf
    stays = max(sigma**2 - s**2 / n, 0.0)
    if mean <= threshold or allowed**2 <= stays:
        return None
    return math.floor(2 * s**2 / (allowed**2 - stays)) + 1


def slope(points: Sequence[tuple[int, int, float]]) -> Line | None:
    """Of the later half of (step, fold, gain), each fold with a height of its own: gains on one fold are not those on
    another. None where too few points are left, or they are not finite."""
    late = points[len(points) // 2 :] if len(points) >= 8 else points
    folds = {fold for _, fold, _ in late}
    freedom = len(late) - len(folds) - 1
    if freedom < 2 or not all(math.isfinite(gain) for _, _, gain in late):
        return None
    centred = [point for fold in folds for point in _centred([(step, gain) for step, of, gain in late if of == fold])]
    spread = sum(step**2 for step, _ in centred)
    if spread == 0:
        return None
    rise = sum(step * gain for step, gain in centred) / spread
    rest = sum((gain - rise * step) ** 2 for step, gain in centred)
    return Line(rise, math.sqrt(rest / freedom / spread))


def _centred(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    middle, mean = fmean(step for step, _ in points), fmean(gain for _, gain in points)
    return [(step - middle, gain - mean) for step, gain in points]


def _later(state: RunState, seed: SeedState, evidence: Evidence, line: Line) -> Finding | None:
    """It still improved when it was judged: how many more steps it would have needed, on a straight line."""
    steps, missing = settings_of(state).training.steps, needed(evidence).mean - (evidence.mean or 0.0)
    more = math.ceil(missing / line.slope)
    if more <= 0 or more > FARTHEST * steps:
        return None
    whole = steps + more
    numbers = {"gain": evidence.mean or 0.0, "gain per 100 steps": 100 * line.slope, "more steps": more}
    what = (
        f"{seed.name} still improved when it was judged: its gain was {evidence.mean:.3g} and rose by "
        f"{100 * line.slope:.2g} in 100 steps; at that pace it would have passed after {more:,} more"
    )
    return Finding("judged too early", what, f"set training.steps={_round(whole)}", numbers, seed=seed.name)


def _fold(state: RunState, seed: SeedState, evidence: Evidence) -> Finding | None:
    """Its gain was there, and too few examples or too much noise hid it."""
    mean, s, n, sigma, z = evidence.mean, evidence.s, evidence.n, evidence.sigma, evidence.z
    assert mean is not None
    assert s is not None
    assert n is not None
    assert sigma is not None
    assert z is not None
    threshold = needed(evidence).threshold
    if mean <= threshold:
        return _not_told(state, seed, evidence) if _upper(evidence) >= threshold else None
    enough = examples_needed(mean, s, n, sigma, z, threshold)
    if enough is None:
        numbers = {"gain": mean, "training noise": sigma, "z": z}
        what = (
            f"{seed.name} gained {mean:.3g}, but its gain varied by {sigma:.2g} from one measurement to the next, more "
            "than any number of gate examples makes up for"
        )
        settings = settings_of(state).training
        slower, longer = settings.learning_rate / 2, _round(2 * settings.steps)
        change = f"set training.learning_rate={slower:g}, or training.steps={longer}"
        return Finding("training noise", what, change, numbers, seed=seed.name)
    if enough <= n:
        return None
    return _few_examples(state, seed, mean, n, enough)


def _not_told(state: RunState, seed: SeedState, evidence: Evidence) -> Finding:
    """Its gain may be enough or not: so few examples do not say."""
    threshold, mean = needed(evidence)
    unsure, gain, n = mean - threshold, evidence.mean or 0.0, evidence.n or 0
    enough = math.ceil(2 * n * (unsure / threshold) ** 2) if threshold else FARTHEST * n
    numbers = {"gain": gain, "unsure": unsure, "asked for": threshold, "examples": n, "examples needed": enough}
    what = (
        f"{seed.name} gained {gain:.2g} give or take {unsure:.2g} on {n:,} gate examples, where {threshold:.2g} is "
        "asked for: they cannot tell"
    )
    change = (
        f"give gate_data of some {_round(FOLDS * enough):,} examples, with gate.folds={FOLDS}, to tell so small a gain"
    )
    if state.gate is None or FOLDS * enough > FARTHEST * state.gate.examples:
        change = "be content: to tell so small a gain takes more than ten times the gate examples"
    return Finding(NOT_TOLD, what, change, numbers, seed=seed.name)


def _none_so_far(failed: Sequence[tuple[SeedState, Evidence]]) -> Finding:
    nearest = max((evidence for _, evidence in failed), key=lambda each: (each.mean or 0.0) - needed(each).threshold)
    best, least = nearest.mean or 0.0, needed(nearest).threshold
    tried = "1 seed was" if len(failed) == 1 else f"{len(failed)} seeds were"
    what = f"{tried} judged, and the best gained {best:.2g} where {least:.2g} is asked for"
    numbers = {"seeds": len(failed), "best gain": best, "asked for": least}
    return Finding("no gain so far", what, "train longer, so that other seeds are tried at other places", numbers)


def _few_examples(state: RunState, seed: SeedState, mean: float, n: int, enough: int) -> Finding:
    assert state.gate is not None
    folds = state.gate.examples // enough
    numbers = {"gain": mean, "examples": n, "examples needed": enough}
    what = f"{seed.name} gained {mean:.3g} on {n:,} gate examples, too few to be sure: some {enough:,} would be"
    if folds >= FOLDS:
        fewer = min(folds, state.gate.folds - 1)
        change = f"set gate.folds={fewer}: each then has {state.gate.examples // fewer:,} examples"
    else:
        change = f"give gate_data of some {_round(FOLDS * enough):,} examples, with gate.folds={FOLDS}"
    return Finding("too few gate examples", what, change, numbers, seed=seed.name)


def _rate(state: RunState, seed: SeedState, evidence: Evidence) -> Finding:
    rate = settings_of(state).training.learning_rate
    numbers = {"gain": evidence.mean or 0.0, "training.learning_rate": rate}
    what = f"{seed.name} learned to make the model worse: a gain of {evidence.mean:.3g} where a fresh seed has 0"
    return Finding("seeds learn too fast", what, f"set training.learning_rate={rate / 4:g}", numbers, seed=seed.name)


def _upper(evidence: Evidence) -> float:
    """The upper bound of the gain, as far above its mean as the verdict's is below it."""
    threshold, mean = needed(evidence)
    return (evidence.mean or 0.0) + (mean - threshold)


def _no_gain(evidence: Evidence) -> bool:
    """Whether even the upper bound of the gain is too little, and the seed did no harm."""
    return 0 <= _upper(evidence) < needed(evidence).threshold


def _large_enough(judged: Sequence[tuple[SeedState, Evidence]]) -> Finding:
    nearest = max((evidence for _, evidence in judged), key=lambda each: _upper(each) - needed(each).threshold)
    most, least = _upper(nearest), needed(nearest).threshold
    what = (
        f"each of {len(judged)} seeds was measured well enough to say that it gains at most {most:.2g}, less than the "
        f"{least:.2g} asked for: the host seems large enough for its data"
    )
    change = "nothing is to be changed; verdict.delta and verdict.rent say what a gain has to be worth"
    return Finding("nothing to gain", what, change, {"seeds": len(judged), "greatest gain": most, "asked for": least})


def _round(steps: int) -> int:
    """Up to two leading digits."""
    unit = int(10 ** max(len(str(steps)) - 2, 0))
    return -(-steps // unit) * unit
