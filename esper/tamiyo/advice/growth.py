"""Why nothing grows, or nothing more: no data, site, budget or seeds left, sites that rest, a host that learns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from esper.kasmina.seed.stages import Stage
from esper.tamiyo.advice.finding import Finding
from esper.tamiyo.policy.observation_v1 import Observation, observe
from esper.tamiyo.run.sites import embargo_end, failures
from esper.tamiyo.run.state import RunState, settings_of

FALLING = 0.05
"""Share of the loss by which three boundaries lie below the three before, from which the host learns by itself."""


def growth(state: RunState) -> Iterator[Finding]:
    """What keeps the run from growing now."""
    settings = settings_of(state)
    if state.sites is None or state.model is None or not settings.policy.seeds:  # who sets 0 wants none
        return
    supported = [reason is None for reason in state.sites.reasons]
    if not any(supported):
        yield _no_site(state)
        return
    if state.gate is None:
        what = "the run has no gate data, and without held-out examples no seed can be judged, so none is tried"
        yield Finding("no gate data", what, "pass gate_data= to esper.start: 5 to 10 % of the examples", rank=0)
        return
    seen = observe(state)
    if seen.warmup_left:
        numbers: dict[str, float] = {"step": state.step, "warmup": settings.policy.warmup}
        what = f"the run is at step {state.step}, and no seed germinates before step {settings.policy.warmup}"
        yield Finding("warm-up", what, f"train longer, or set policy.warmup={max(state.step // 4, 0)}", numbers, 0)
    elif not seen.seeds_left:
        yield _used_up(state)
    else:
        yield from _no_room(state, seen)
    if seen.trend is not None and seen.trend > FALLING and not state.seeds:
        numbers = {"trend": seen.trend}
        what = f"the loss still fell by {seen.trend:.1%} over the last six boundaries, so the host learns by itself"
        yield Finding("host still learns", what, "train longer before growth is expected of it", numbers)


def _no_site(state: RunState) -> Finding:
    assert state.sites is not None
    told = Counter(str(reason) for reason in state.sites.reasons).most_common(3)
    why = "; ".join(f"{count} x {reason}" for reason, count in told) or "the model has no layers"
    what = f"none of the model's {len(state.sites.names)} layers can hold a seed ({why})"
    return Finding(
        "no site", what, "unfreeze or plainly call a Linear, Conv2d or LayerNorm, or name one in sites=", rank=0
    )


def _used_up(state: RunState) -> Finding:
    policy = settings_of(state).policy
    born, kept = sum(state.born.values()), _kept(state)
    what = f"all {born} seeds that the run may germinate are used up, {kept} of them kept, so nothing is tried any more"
    numbers = {"germinated": born, "kept": kept, "policy.seeds": policy.seeds}
    renewal = max(state.step, 1000)
    change = f"set policy.seeds={max(2 * born, 1)}"
    if not policy.renewal or renewal < policy.renewal:
        change += f", or policy.renewal={renewal} for as many again every {renewal} steps"
    return Finding("seeds used up", what, change, numbers)


def _no_room(state: RunState, seen: Observation) -> Iterator[Finding]:
    """Where the next seed finds no place: sites rest, or nothing fits the budget."""
    if seen.candidates or seen.training or seen.pending or seen.cooldown_left or state.sites is None:
        return
    settings = settings_of(state)
    costs = [cost for row in state.sites.costs for cost in row if cost >= 0]
    fits = not costs or min(costs) <= seen.parameters_left
    ends = [embargo_end(steps, settings.policy.embargo) for steps in failures(state).values()]
    if fits and seen.embargoed and any(end > state.step for end in ends):
        free = min(end for end in ends if end > state.step)
        what = f"{seen.embargoed} sites rest after failures, the first until step {free}, and no other is free"
        numbers: dict[str, float] = {
            "embargoed": seen.embargoed,
            "free again": free,
            "policy.embargo": settings.policy.embargo,
        }
        change = f"train beyond step {free}, or set policy.embargo={max(settings.policy.embargo // 4, 1)}"
        yield Finding("sites rest", what, change, numbers)
        return
    if not fits:
        host = sum(_size(shape) for shape in state.model.shapes) if state.model else 0
        need = (min(costs) + (settings.policy.budget * host - seen.parameters_left)) / max(host, 1)
        what = f"the smallest seed adds {min(costs):,} parameters, and {seen.parameters_left:,} of the budget are left"
        numbers = {"smallest": min(costs), "left": seen.parameters_left, "policy.budget": settings.policy.budget}
        yield Finding(
            "no budget",
            what,
            f"set policy.budget={math.ceil(1000 * need) / 1000:g} (a share of the host's parameters)",
            numbers,
            0,
        )


def _kept(state: RunState) -> int:
    return sum(seed.stage is Stage.FOSSILISED for seed in state.seeds.values())


def _size(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product
