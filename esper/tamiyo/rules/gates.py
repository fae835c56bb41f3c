"""The gates that a seed passes on its way into the host: when each is asked, of what, and what it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

from esper.events.runs import Evidence
from esper.kasmina import verdict
from esper.kasmina.seed.stages import IN_THE_HOST, Stage
from esper.tamiyo.rules import script
from esper.tamiyo.rules.script import Script
from esper.tamiyo.run.state import RunState, SeedState, settings_of


class Judgement(NamedTuple):
    """Where a gate sends a seed."""

    to: Stage
    gate: str
    evidence: Evidence


def finite() -> Judgement:
    """On a seed that failed: its own loss or gradient was not finite."""
    evidence = Evidence(passed=False, reason="the seed's own loss or gradient was not finite")
    return Judgement(Stage.CULLED, "finite", evidence)


def governor(warning: str) -> Judgement:
    """On a seed in the host while the losses are alarming."""
    return Judgement(Stage.CULLED, "governor", Evidence(passed=False, reason=warning))


def trial_fold(state: RunState, seed: SeedState) -> int:
    """The fold of a seed's next isolated measurement: one after another, but never the next verdict's."""
    folds = _folds(state)
    return (state.gate_uses + 1 + len(seed.trials) % (folds - 1)) % folds


def fold_size(state: RunState, fold: int) -> int:
    """The number of gate examples in ``fold``: those whose place modulo the number of folds it is."""
    return len(range(fold, state.gate.examples, state.gate.folds)) if state.gate is not None else 0


def birth(state: RunState, seed: SeedState) -> Script[Judgement | None]:
    """GERMINATED → TRAINING: finite gradient reaches the kernel."""
    fold = (state.gate_uses + 1) % _folds(state)  # the next fold is the next verdict's
    norm: float | None = yield script.BirthGradient(seed.name, fold)
    good = norm is not None and math.isfinite(norm) and norm > 0
    said = (
        "the kernel loads, its loss is finite and gradient flows" if good else "no finite gradient reaches the kernel"
    )
    evidence = Evidence(passed=good, reason=said, gradient_norm=norm)
    return Judgement(Stage.TRAINING if good else Stage.CULLED, "birth", evidence)


def trained(state: RunState, seed: SeedState) -> Script[Judgement | None]:
    """TRAINING → BLENDING: the verdict, once the seed has trained and been measured often enough."""
    settings = settings_of(state)
    measured_enough = len(seed.trials) >= settings.verdict.measurements
    if state.step - seed.since < settings.training.steps or not measured_enough:
        return None
    if any(other.stage in IN_THE_HOST for other in state.seeds.values()):
        return None  # one seed blends at a time: this one trains on until there is room
    fold = state.gate_uses % _folds(state)
    gains: script.Gains = yield script.Verdict(seed.name, fold)
    z: float = yield script.Quantile(verdict.z_value(settings.verdict.alpha, state.verdicts + 1))
    evidence = verdict.judge(
        gains_mean=gains.mean,
        s=gains.s,
        n=fold_size(state, fold),
        fold=fold,
        trials=[trial for _, trial in seed.trials],
        z=z,
        settings=settings.verdict,
        parameters=_parameters(state, seed),
        folds=_folds(state),
    )
    return Judgement(Stage.BLENDING if evidence.passed else Stage.CULLED, "verdict", evidence)


def blended(state: RunState, seed: SeedState) -> Script[Judgement | None]:
    """BLENDING → HOLDING: alpha has risen to 1."""
    yield from ()  # it asks nothing, but is a script like the others
    if state.step - seed.since < settings_of(state).blending.steps:
        return None
    evidence = Evidence(passed=True, reason="alpha is 1 and the governor raised no alarm")
    return Judgement(Stage.HOLDING, "blend", evidence)


def held(state: RunState, seed: SeedState) -> Script[Judgement | None]:
    """HOLDING → FOSSILISED: the audit."""
    settings = settings_of(state)
    if state.step - seed.since < settings.blending.holding_steps:
        return None
    began = seed.entered(Stage.BLENDING)
    fold = began.evidence.audit_fold if began is not None and began.evidence is not None else None
    change: script.Change | None = None
    if fold is not None:
        change = yield script.Audit(seed.name, fold)
    if fold is None or change is None:
        evidence = Evidence(passed=False, reason="the losses from when blending began are missing")
        return Judgement(Stage.CULLED, "audit", evidence)
    z: float = yield script.Quantile(NormalDist().inv_cdf(settings.verdict.alpha))
    size = fold_size(state, fold)
    evidence = verdict.audit(change.mean, change.s, size, fold, z, settings.verdict, change.ablation)
    return Judgement(Stage.FOSSILISED if evidence.passed else Stage.CULLED, "audit", evidence)


Gate = Callable[[RunState, SeedState], Script[Judgement | None]]

GATES: dict[Stage, Gate] = {
    Stage.GERMINATED: birth,
    Stage.TRAINING: trained,
    Stage.BLENDING: blended,
    Stage.HOLDING: held,
}


def _folds(state: RunState) -> int:
    """Of the gate data; without any nothing germinates."""
    return state.gate.folds if state.gate is not None else settings_of(state).gate.folds


def _parameters(state: RunState, seed: SeedState) -> int:
    """What the seed adds, by the run's table of sites."""
    table = state.sites
    if table is None or seed.site not in table.names or seed.blueprint not in table.blueprints:
        return 0
    return max(table.costs[table.names.index(seed.site)][table.blueprints.index(seed.blueprint)], 0)
