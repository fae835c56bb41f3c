"""What comes next in a run's growth, in a few words: what a progress line and a table that is watched end with."""

from __future__ import annotations

from esper.kasmina.seed.stages import Stage
from esper.tamiyo.advice.growth import growth
from esper.tamiyo.run.state import RunState, SeedState, settings_of


def outlook(state: RunState) -> str:
    """What the oldest living seed comes to and when; without one, when another may germinate, or why none does."""
    living = state.live_seeds()
    if living:
        return _next(state, living[0])
    if state.gate is None:
        return "no gate data, so no seeds"
    policy = settings_of(state).policy
    if not policy.seeds:
        return "no seeds wanted (policy.seeds=0)"
    first = policy.warmup if state.last_birth is None else max(policy.warmup, state.last_birth + policy.cooldown)
    if state.step < first:
        return f"seeds from step {first:,} on"
    hindrance = next((finding for finding in growth(state) if finding.name != "host still learns"), None)
    return f"no seed now: {hindrance.name}" if hindrance else "a seed may come at any boundary"


def _next(state: RunState, seed: SeedState) -> str:
    settings = settings_of(state)
    if seed.stage is Stage.TRAINING:
        return f"{seed.name} is judged from step {seed.since + settings.training.steps:,} on"
    if seed.stage is Stage.BLENDING:
        return f"{seed.name} has its full effect from step {seed.since + settings.blending.steps:,} on"
    if seed.stage is Stage.HOLDING:
        return f"{seed.name} is audited from step {seed.since + settings.blending.holding_steps:,} on"
    return f"{seed.name} waits for its kernel"
