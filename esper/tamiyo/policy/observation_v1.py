"""Version 1 of what a policy sees of a run. It never changes, nor what it gets from elsewhere: logs rest on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from math import isfinite, prod
from statistics import fmean
from typing import NamedTuple

from esper.kasmina.seed.stages import Stage
from esper.settings import Settings
from esper.tamiyo.run.anomaly import alarm
from esper.tamiyo.run.sites import embargo_end, failures, next_seed_name
from esper.tamiyo.run.state import RunState, settings_of

TREND = 3  # boundaries in each half of the loss trend


class Option(NamedTuple):
    """A blueprint that fits a site: what it adds, and how often it failed there."""

    blueprint: str
    parameters: int
    failures: int


class Candidate(NamedTuple):
    """A site where a seed may be born now; measurements are None where not taken or not finite."""

    site: str
    seed: str
    gradient_to_weight: float | None
    gradient_norm: float | None
    dormant_share: float | None
    seeds: int
    failures: int
    options: tuple[Option, ...]


class Record(NamedTuple):
    """How a blueprint's seeds fared in this run so far."""

    blueprint: str
    kept: int
    failed: int


@dataclass(frozen=True, slots=True)
class Observation:
    """A run at a boundary. Steps and parameters are counts; ``trend`` is the share by which the mean loss of the
    last three boundaries lies below that of the three before, None until there are six."""

    run_seed: int
    step: int
    loss: float | None
    trend: float | None
    alarm: str | None
    gate: bool
    live: dict[str, int]  # seeds by stage
    pending: bool  # a germination was decided and is not yet carried out
    training: int  # seeds in GERMINATED or TRAINING
    training_limit: int
    seeds_left: int
    parameters_left: int
    warmup_left: int
    cooldown_left: int
    since_birth: int | None
    exploration: float
    records: tuple[Record, ...]
    candidates: tuple[Candidate, ...]  # none while the run's rules forbid a birth: gate data, limits, warm-up, cooldown
    embargoed: int  # sites that are no candidates because they rest after failures


def observe(state: RunState) -> Observation:
    """What a policy may know when it decides at ``state.step``."""
    settings = settings_of(state)
    policy = settings.policy
    parameters_left = _parameters_left(state, policy.budget)
    since_birth = None if state.last_birth is None else state.step - state.last_birth
    allowed = policy.seeds * (1 + state.step // policy.renewal if policy.renewal else 1)
    seeds_left = max(allowed - sum(state.born.values()), 0)
    warmup_left = max(policy.warmup - state.step, 0)
    cooldown_left = 0 if since_birth is None else max(policy.cooldown - since_birth, 0)
    live = Counter(seed.stage.value for seed in state.live_seeds())
    training = live[Stage.GERMINATED] + live[Stage.TRAINING]
    free = state.gate is not None and state.pending is None and training < settings.training.concurrent
    open_ = free and seeds_left > 0 and not warmup_left and not cooldown_left
    candidates, embargoed = _candidates(state, settings, parameters_left) if open_ else ((), 0)
    return Observation(
        run_seed=state.seed,
        step=state.step,
        loss=state.loss,
        trend=_trend(state.losses),
        alarm=alarm(state.losses, settings.governor.spike),
        gate=state.gate is not None,
        live=dict(sorted((+live).items())),
        pending=state.pending is not None,
        training=training,
        training_limit=settings.training.concurrent,
        seeds_left=seeds_left,
        parameters_left=parameters_left,
        warmup_left=warmup_left,
        cooldown_left=cooldown_left,
        since_birth=since_birth,
        exploration=policy.exploration,
        records=_records(state),
        candidates=candidates,
        embargoed=embargoed,
    )


def _trend(losses: tuple[float, ...]) -> float | None:
    window = losses[-2 * TREND :]
    if len(window) < 2 * TREND or not all(map(isfinite, window)):
        return None
    before, now = fmean(window[:TREND]), fmean(window[TREND:])
    return 0.0 if before == 0 else (before - now) / abs(before)


def _parameters_left(state: RunState, share: float) -> int:
    """Of ``share`` times the host's numbers (parameters and buffers), what live and fossilised seeds left over."""
    host = sum(prod(shape) for shape in state.model.shapes) if state.model is not None else 0
    cost = _costs(state)
    used = sum(cost.get((s.site, s.blueprint), 0) for s in state.seeds.values() if s.stage is not Stage.CULLED)
    return max(int(share * host) - used, 0)


def _costs(state: RunState) -> dict[tuple[str, str], int]:
    table = state.sites
    if table is None:
        return {}
    wanted = {seed.site for seed in state.seeds.values()}
    rows = ((name, row) for name, row in zip(table.names, table.costs, strict=True) if name in wanted)
    return {(name, b): max(c, 0) for name, row in rows for b, c in zip(table.blueprints, row, strict=True)}


def _records(state: RunState) -> tuple[Record, ...]:
    kept, failed = Counter[str](), Counter[str]()
    for seed in state.seeds.values():
        if seed.stage is Stage.FOSSILISED:
            kept[seed.blueprint] += 1
        elif seed.stage is Stage.CULLED:
            failed[seed.blueprint] += 1
    return tuple(Record(name, kept[name], failed[name]) for name in sorted(kept | failed))


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _candidates(state: RunState, settings: Settings, parameters_left: int) -> tuple[tuple[Candidate, ...], int]:
    """The sites that may hold a seed now, in the table's order, with the blueprints that fit them and the budget;
    and how many sites are embargoed."""
    table = state.sites
    if table is None:
        return (), 0
    occupied = {seed.site for seed in state.live_seeds()}
    failed_at, health = failures(state), state.health
    seeds_at = Counter(seed.site for seed in state.seeds.values())
    culled = Counter((seed.site, seed.blueprint) for seed in state.seeds.values() if seed.stage is Stage.CULLED)
    culled.update((rejection.site, rejection.blueprint) for rejection in state.rejections)
    found, embargoed = [], 0
    nothing: dict[str, float | None] = defaultdict(lambda: None)
    for site, reason, costs in zip(table.names, table.reasons, table.costs, strict=True):
        failed = failed_at.get(site, [])
        if state.step < embargo_end(failed, settings.policy.embargo):
            embargoed += 1
            continue
        if reason is not None or site in occupied:
            continue
        options = tuple(
            Option(blueprint, cost, culled[site, blueprint])
            for blueprint, cost in zip(table.blueprints, costs, strict=True)
            if 0 <= cost <= parameters_left
        )
        if options:
            row = health.get(site, nothing)
            found.append(
                Candidate(
                    site=site,
                    seed=next_seed_name(state, site),
                    gradient_to_weight=_finite(row["gradient_to_weight"]),
                    gradient_norm=_finite(row["gradient_norm"]),
                    dormant_share=_finite(row["dormant_share"]),
                    seeds=seeds_at[site],
                    failures=len(failed),
                    options=options,
                )
            )
    return tuple(found), embargoed
