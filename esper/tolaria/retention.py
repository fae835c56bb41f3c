"""Which checkpoints may go: pure functions of the folded run."""

from __future__ import annotations

from esper.events.runs import CheckpointCommitted
from esper.kasmina.stages import IN_THE_HOST, Stage
from esper.tamiyo.state import RunState


def expendable(state: RunState, keep: int, due: int) -> list[CheckpointCommitted]:
    """Committed checkpoints that no recovery can need.

    Needed are the first, the newest, the newest ``keep`` that were due (a pause's is not), the one of step ``due`` to
    which the governor would go back, and those to which a seed that blends or holds at one of these would be culled.
    """
    by_step = sorted(state.checkpoints, key=lambda each: each.step)
    regular = [each.step for each in by_step if each.reason != "pause"]
    kept = {each.step for each in by_step[-1:]} | set(regular[-keep:]) | {due}
    needed = {0} | kept | {start for step in kept for start in blend_starts(state, step)}
    return [each for each in by_step if each.step not in needed]


def blend_starts(state: RunState, step: int) -> set[int]:
    """Steps of the checkpoints to which seeds that blend or hold just after ``step`` go back when culled."""
    starts = set()
    for seed in state.seeds.values():
        past = tuple(each for each in seed.transitions if each.step <= step)
        if past and Stage(past[-1].to_stage) in IN_THE_HOST:
            starts.add(max(each.step for each in past if each.to_stage == Stage.BLENDING))
    return starts
