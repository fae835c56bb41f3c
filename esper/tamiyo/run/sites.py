"""What a site's seeds and failures say about it: its embargo, the name of its next seed.

A failure is a cull, whatever its cause, or every third kernel that could not be loaded there. After its j-th
failure a site rests for ``embargo_steps * 2**(j - 1)`` steps from that failure's step. Fossilised seeds neither
count nor reset the count: a site can hold several seeds over its life.
"""

from __future__ import annotations

from collections import defaultdict

from esper.kasmina.seed.stages import Stage
from esper.tamiyo.run.state import RunState

LOADS = 3  # failed germinations that count as one failure
MAX_DOUBLINGS = 40


def failures(state: RunState) -> dict[str, list[int]]:
    """The steps of every site's failures, ascending; sites without one are left out."""
    steps: dict[str, list[int]] = defaultdict(list)
    for seed in state.seeds.values():
        if seed.stage is Stage.CULLED:
            steps[seed.site].append(seed.since)
    rejected: dict[str, int] = defaultdict(int)
    for rejection in state.rejections:
        rejected[rejection.site] += 1
        if rejected[rejection.site] % LOADS == 0:
            steps[rejection.site].append(rejection.step)
    return {site: sorted(at) for site, at in steps.items()}


def embargo_end(failed_at: list[int], embargo_steps: int) -> int:
    """The first step at which a site that failed at these steps may hold a seed again."""
    if not failed_at:
        return 0
    return failed_at[-1] + (embargo_steps << min(len(failed_at) - 1, MAX_DOUBLINGS))


def next_seed_name(state: RunState, site: str) -> str:
    """``site#n``: n counts the seeds ever born at the site, those that a rollback removed included."""
    return f"{site}#{state.born.get(site, 0) + 1}"
