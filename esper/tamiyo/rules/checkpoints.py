"""When a checkpoint is due, and which may go. Pure functions of the folded run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from esper.events.runs import CheckpointCommitted, RolledBack, SeedTransitioned
from esper.kasmina.seed.stages import IN_THE_HOST, Stage
from esper.tamiyo.run.state import MetricState, RunState

START, EPOCH, STEPS = "start", "epoch", "steps"
PAUSE, END = "pause", "end"
BEST = "best"  # the metric that the run was begun with has never been better
ASIDE = frozenset((PAUSE, END, BEST))  # one for no other reason is none that the governor goes back to
BLENDING = "blending"  # one for this reason is taken whatever the weights are: a cull goes back to it
CHANGES = {Stage.BLENDING: BLENDING, Stage.FOSSILISED: "fossilised"}


def reasons(contents: Iterable[object], step: int, last: int, every: int) -> list[str]:
    """Why a checkpoint is due after ``step``, whose events are ``contents``; none if it is not.

    ``last`` is the step of the last one that was due, ``every`` the setting ``checkpoint.steps``.
    """
    found = changes(contents)
    return [*found, STEPS] if step - last >= every else found


def changes(contents: Iterable[object]) -> list[str]:
    """What in ``contents``, the events of one step, makes a checkpoint due, in their order."""
    found = []
    for each in contents:
        if isinstance(each, RolledBack):
            found.append("rollback")
        elif isinstance(each, SeedTransitioned) and each.to_stage in CHANGES:
            found.append(CHANGES[Stage(each.to_stage)])
    return found


def newest_usable(state: RunState, damaged: AbstractSet[int]) -> int | None:
    """The step of the newest checkpoint from which a run can go on while those of the steps ``damaged`` cannot be used:
    those that seeds blending in it would go back to are whole as well. None if there is none."""
    for step in sorted({each.step for each in state.checkpoints} - damaged, reverse=True):
        if not blend_starts(state, step) & damaged:
            return step
    return None


def damaged_note(step: int) -> str:
    """What RunResumed notes of a checkpoint that is then retired."""
    return f"the checkpoint of step {step} is damaged and was passed over"


def is_taken(why: Sequence[str], finite: bool) -> bool:
    """Whether one that is due is taken: weights that are not finite are none that the governor may go back to."""
    return bool(why) and (finite or BLENDING in why)


def newest_due(state: RunState) -> int:
    """The step of the newest committed checkpoint to which the governor goes back."""
    return max((each.step for each in state.checkpoints if was_due(each.reason)), default=0)


def was_due(reason: str) -> bool:
    """Whether the governor may go back to a checkpoint that was taken for ``reason``."""
    return not ASIDE.issuperset(reason.split(","))


def is_best(reason: str) -> bool:
    """Whether one that was taken for ``reason`` is of the best value of the run's metric so far."""
    return BEST in reason.split(",")


def best_step(best: str, metric: MetricState) -> int:
    """The step after which ``metric`` was best, as ``best`` says, such as ``accuracy:max``."""
    return metric.most_step if best.endswith(":max") else metric.least_step


def is_best_yet(best: str, metric: MetricState | None, step: int, value: float) -> bool:
    """Whether ``value``, logged after ``step``, is better than all that ``metric`` holds, or its best one itself."""
    if metric is None or math.isnan(value):
        return not math.isnan(value)
    known = metric.most if best.endswith(":max") else metric.least
    better = value > known if best.endswith(":max") else value < known
    return better or math.isnan(known) or step == best_step(best, metric)


def expendable(state: RunState, keep: int, due: int) -> list[CheckpointCommitted]:
    """Committed checkpoints that no recovery can need.

    Needed are the first, the newest, the newest of the best, the newest ``keep`` that were due (a pause's is not), the
    one of step ``due`` to which the governor would go back, and those to which a seed that blends or holds at one of
    these would be culled.
    """
    by_step = sorted(state.checkpoints, key=lambda each: each.step)
    regular = [each.step for each in by_step if was_due(each.reason)]
    best = [each.step for each in by_step if is_best(each.reason)]
    if state.best is not None and (metric := state.metrics.get(state.best.rpartition(":")[0])) is not None:
        best.append(best_step(state.best, metric))
    kept = {each.step for each in by_step[-1:]} | set(regular[-keep:]) | set(best[-2:]) | {due}
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
